//! PID 1 of a guest that has no other purpose: makes the machine usable, then serves the host until the
//! machine is switched off.
//!
//! In order: mounts /dev, /proc and /sys; loads the modules that /modules/order lists; brings up `lo` and
//! the first Ethernet interface with the address of the kernel option `testbed.ip=ADDRESS/PREFIX`, so that
//! the kernel answers the host's probes; opens the virtio-serial port [`PORT`] and converses over it.
//!
//! PID 1 must not exit, the kernel panics if it does: whatever cannot be mended ends with a line on the
//! console and the machine switched off. What can be done without (a module, the network) is reported there
//! and done without.

use crate::{
    clock::monotonic_ns,
    control,
    engine::{Engine, HugePages},
    error::Error,
    protocol::PORT,
    sys,
};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        socket::{AddressFamily, SockFlag, SockType, socket},
    },
};
use std::{
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The folder of the modules, and the file in it that names them, one a line, in the order to load them.
const MODULES: &str = "/modules";
const ORDER: &str = "order";

/// How long devices may take to appear after their modules are loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look for a device that has not appeared yet.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How often to look whether the host is there again.
const HOST_GONE: Duration = Duration::from_millis(10);

/// Does what PID 1 does. Never returns; ends with the machine switched off.
pub fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("this is a bug: {panic}"));
        power_off();
    }));
    let Err(error) = be_init();
    say(&error.to_string());
    power_off()
}

fn be_init() -> Result<Infallible, Error> {
    mount_all()?;
    load_modules();
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Err(error) = bring_up_network(&command_line) {
        say(&error.to_string());
    }
    let port = Port(open_port()?);
    let writer = port.0.try_clone().map_err(|cause| Error::system("duplicate the port", cause))?;
    let started = Duration::from_nanos(monotonic_ns());
    say(&format!("{} runs {:.2} s after boot", env!("CARGO_PKG_VERSION"), started.as_secs_f64()));
    let mut engine = Engine::new(HugePages::ReserveMissing);
    let served = control::serve(&mut engine, port, writer);
    let cause = served.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
    Err(Error::system(format!("go on talking to the host over the port {PORT}"), cause))
}

/// Says a line on the console, or nowhere, if there is none.
fn say(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(format!("stressor: {line}\n").as_bytes());
    }
}

/// Switches the machine off.
pub fn power_off() -> ! {
    // Without ACPI the machine cannot be switched off, and stands still.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        thread::park();
    }
}

/// Mounts /dev, /proc and /sys, unless they are.
///
/// # Errors
///
/// Which could not be mounted, and why.
pub fn mount_all() -> Result<(), Error> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        // Whether it exists, the mount will tell.
        let _ = fs::create_dir(at);
        match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => return Err(Error::system(format!("mount {kind} at {at}"), errno)),
        }
    }
    Ok(())
}

/// Loads the modules that /modules/order lists, if it is there; says on the console which could not be
/// loaded.
pub fn load_modules() {
    // A kernel with everything built in has no list.
    let order = fs::read_to_string(Path::new(MODULES).join(ORDER)).unwrap_or_default();
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(error) = load_module(&Path::new(MODULES).join(name)) {
            say(&error.to_string());
        }
    }
}

fn load_module(path: &Path) -> Result<(), Error> {
    let failed = |cause: io::Error| Error::system(format!("load the module {}", path.display()), cause);
    let file = File::open(path).map_err(failed)?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    let flags = if compressed {
        ModuleInitFlags::from_bits_retain(COMPRESSED_FILE)
    } else {
        ModuleInitFlags::empty()
    };
    match finit_module(file, c"", flags) {
        // Loaded already, or built in.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::ENOENT) => Err(failed(io::Error::other("it needs another one to be loaded before it"))),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// `MODULE_INIT_COMPRESSED_FILE`, since Linux 5.17.
const COMPRESSED_FILE: u32 = 4;

/// The address and prefix length of the kernel option `testbed.ip=ADDRESS/PREFIX`, if it is given.
fn address_option(command_line: &str) -> Result<Option<(Ipv4Addr, u8)>, Error> {
    let Some(text) = command_line.split_whitespace().find_map(|option| option.strip_prefix("testbed.ip="))
    else {
        return Ok(None);
    };
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        Some((address.parse().ok()?, prefix.parse().ok().filter(|&bits| bits <= 32)?))
    });
    parsed.map(Some).ok_or_else(|| {
        let cause =
            io::Error::new(io::ErrorKind::InvalidInput, "it is written like `testbed.ip=10.0.0.2/24`");
        Error::system(format!("read the kernel option `testbed.ip={text}`"), cause)
    })
}

fn bring_up_network(command_line: &str) -> Result<(), Error> {
    let Some(address) = address_option(command_line)? else {
        return Ok(());
    };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| Error::system("open a socket", errno))?;
    let up = |interface: &str, address| {
        sys::bring_up(&socket, interface, address)
            .map_err(|(what, errno)| Error::system(format!("{what} {interface}"), errno))
    };
    up("lo", None)?;
    let interface = wait_for("a virtio Ethernet interface", || {
        first_entry("/sys/class/net", |path| {
            fs::read_link(path.join("device/driver")).is_ok_and(|driver| driver.ends_with("virtio_net"))
        })
    })?;
    up(&interface, Some(address))
}

/// Opens the virtio-serial port that the host converses over.
fn open_port() -> Result<File, Error> {
    let name = wait_for(&format!("the virtio-serial port {PORT}"), || {
        first_entry("/sys/class/virtio-ports", |path| {
            fs::read_to_string(path.join("name")).is_ok_and(|name| name.trim() == PORT)
        })
    })?;
    let device = PathBuf::from("/dev").join(name);
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .map_err(|cause| Error::system(format!("open {}", device.display()), cause))
}

/// The first entry of a folder, by name, that is as wanted.
fn first_entry(folder: &str, wanted: impl Fn(&Path) -> bool) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter(|entry| wanted(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()
}

fn wait_for(what: &str, look: impl Fn() -> Option<String>) -> Result<String, Error> {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::system(format!("find {what}"), io::Error::from(io::ErrorKind::NotFound)));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Reads from a virtio-serial port, whose input seems to end whenever no host is connected; another one may
/// be, later.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => thread::sleep(HOST_GONE),
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_among_other_options() {
        let address = address_option("console=ttyS0 testbed.ip=10.0.0.2/24 quiet\n").unwrap();
        assert_eq!(address, Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
        assert_eq!(address_option("console=ttyS0 quiet").unwrap(), None);
    }

    #[test]
    fn a_bad_address_is_named() {
        for bad in ["10.0.0.2", "10.0.0/24", "10.0.0.2/33", "/24", ""] {
            let error = address_option(&format!("testbed.ip={bad}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`testbed.ip={bad}`")), "{error}");
        }
    }
}
