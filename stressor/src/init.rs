//! The stressor as PID 1 of a guest that runs nothing else: sets the guest up, then serves requests of the
//! host until the guest is powered off.
//!
//! It takes these steps in order: it mounts /dev, /proc and /sys; loads the modules listed in /modules/order;
//! brings up `lo` and the first virtio Ethernet interface with the address in the kernel option
//! `testbed.ip=ADDRESS/PREFIX`, so that the kernel answers the probe; and serves requests on the control
//! port, the virtio-serial port [`PORT`]. The disk that requests refer to is the first virtio disk, if the
//! guest has one.
//!
//! PID 1 must not exit, because the kernel panics if it does. After a fatal error it writes a line to the
//! console and powers the guest off. If something optional fails (a module, the network), it reports that on
//! the console and continues.

use crate::{
    clock::monotonic_ns,
    control,
    disk_engine::DiskEngine,
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

/// The folder with the kernel modules.
const MODULES: &str = "/modules";
/// The file in that folder that lists the modules, one per line, in the order in which they are loaded.
const ORDER: &str = "order";

/// The first virtio disk.
const DISK: &str = "/dev/vda";

/// The time limit for devices to appear after their modules are loaded.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which to check for a device that has not appeared yet.
const DEVICE_POLL: Duration = Duration::from_millis(1);

/// The interval at which to check whether the host has reconnected to the control port.
const RECONNECT_POLL: Duration = Duration::from_millis(10);

/// Sets up the guest and serves the host. Never returns: it powers the guest off in the end.
pub fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        log(&format!("this is a bug: {panic}"));
        power_off();
    }));
    let Err(error) = run_init();
    log(&error.to_string());
    power_off()
}

/// Sets up the guest and serves the host. Returns only after a fatal error.
fn run_init() -> Result<Infallible, Error> {
    mount_all()?;
    load_modules();
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Err(error) = bring_up_network(&command_line) {
        log(&error.to_string());
    }
    let port = Port(open_port()?);
    let writer = port.0.try_clone().map_err(|cause| Error::system("duplicate the port", cause))?;
    let started = Duration::from_nanos(monotonic_ns());
    log(&format!("{} started {:.2} s after boot", env!("CARGO_PKG_VERSION"), started.as_secs_f64()));
    let mut engine = Engine::new(HugePages::ReserveMissing);
    let name = format!("the port {PORT}");
    let mut disk = DiskEngine::new(Some(DISK.into()));
    control::serve(&mut engine, &mut disk, (&name, port), (&name, writer))?;
    let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
    Err(Error::system(format!("read requests from {name}"), cause))
}

/// Writes a line to the console, if there is one.
fn log(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(format!("stressor: {line}\n").as_bytes());
    }
}

/// Powers the guest off. Never returns.
pub fn power_off() -> ! {
    // Without ACPI the guest cannot power off. Then it just idles.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        thread::park();
    }
}

/// Mounts /dev, /proc and /sys, unless they are mounted already.
///
/// # Errors
///
/// Returns the first mount that failed.
pub fn mount_all() -> Result<(), Error> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        // Errors are ignored: if the directory is missing, the mount fails.
        let _ = fs::create_dir(at);
        match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => return Err(Error::system(format!("mount {kind} at {at}"), errno)),
        }
    }
    Ok(())
}

/// Loads the modules listed in /modules/order, if that file exists. Reports modules that fail on the console.
pub fn load_modules() {
    // The list does not exist if everything is built into the kernel.
    let order = fs::read_to_string(Path::new(MODULES).join(ORDER)).unwrap_or_default();
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(error) = load_module(&Path::new(MODULES).join(name)) {
            log(&error.to_string());
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
        // `EEXIST`: the module is already loaded or built in.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::ENOENT) => {
            Err(failed(io::Error::other("another module that it depends on is not loaded")))
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The flag `MODULE_INIT_COMPRESSED_FILE` of `finit_module(2)`, since Linux 5.17.
const COMPRESSED_FILE: u32 = 4;

/// Returns the address and prefix length in the kernel option `testbed.ip=ADDRESS/PREFIX`, if it is given.
fn address_option(command_line: &str) -> Result<Option<(Ipv4Addr, u8)>, Error> {
    let Some(text) = command_line.split_whitespace().find_map(|option| option.strip_prefix("testbed.ip="))
    else {
        return Ok(None);
    };
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        Some((address.parse().ok()?, prefix.parse().ok().filter(|&bits| bits <= 32)?))
    });
    parsed.map(Some).ok_or_else(|| {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "write it like `testbed.ip=10.0.0.2/24`");
        Error::system(format!("read the kernel option `testbed.ip={text}`"), cause)
    })
}

/// Brings up the network if the kernel option `testbed.ip` is given.
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

/// Opens the control port.
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

/// Returns the name of the alphabetically first entry of a folder that satisfies a condition.
fn first_entry(folder: &str, wanted: impl Fn(&Path) -> bool) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter(|entry| wanted(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()
}

/// Calls `look` until it returns a value, for up to [`DEVICE_TIMEOUT`].
fn wait_for(what: &str, look: impl Fn() -> Option<String>) -> Result<String, Error> {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if started.elapsed() > DEVICE_TIMEOUT {
            return Err(Error::system(format!("find {what}"), io::Error::from(io::ErrorKind::NotFound)));
        }
        thread::sleep(DEVICE_POLL);
    }
}

/// Reads from a virtio-serial port. While no host is connected, reads of the port return the end of the file;
/// this reader waits instead, because a host may connect again later.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => thread::sleep(RECONNECT_POLL),
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_option_is_found_among_others() {
        let address = address_option("console=ttyS0 testbed.ip=10.0.0.2/24 quiet\n").unwrap();
        assert_eq!(address, Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
        assert_eq!(address_option("console=ttyS0 quiet").unwrap(), None);
    }

    #[test]
    fn an_invalid_address_is_quoted_in_the_error() {
        for bad in ["10.0.0.2", "10.0.0/24", "10.0.0.2/33", "/24", ""] {
            let error = address_option(&format!("testbed.ip={bad}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`testbed.ip={bad}`")), "{error}");
        }
    }
}
