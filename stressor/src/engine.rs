//! The engine: the memory of a workload and the threads that dirty it, behind five operations.
//!
//! While stopped, the engine owns the memory and no thread runs. While running, a separate thread owns the
//! memory: it splits the memory among the lanes and returns it when they have ended. Therefore memory cannot
//! be read while it is being written, and no lock is needed.

use crate::{
    clock::{Monotonic, monotonic_ns, wake_precisely},
    content::Pattern,
    error::Error,
    huge_pages,
    lane::{Lane, Schedule},
    machine::{self, MemoryError, SystemMemory},
    memory::{Partition, Region, Usage},
    meter::Meter,
    sys::Backing,
    verify::{Area, Verification},
    walk::Walk,
    workload::{PageSize, Workload, Write, pages_for},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::SigSet,
    unistd::Pid,
};
use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
};

/// The way in which huge pages are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// They must be reserved beforehand; otherwise the workload is refused.
    Reserved,
    /// The engine reserves exactly the pages that the workload needs. Only for a guest that runs nothing
    /// else.
    ReserveMissing,
}

/// Dirties memory according to a [`Workload`]. Dropping it stops the dirtying.
#[derive(Debug)]
pub struct Engine {
    workload: Workload,
    huge_pages: HugePages,
    meter: Arc<Meter>,
    state: State,
}

#[derive(Debug)]
enum State {
    Stopped(Memory),
    Running {
        stop: Arc<AtomicBool>,
        memory: JoinHandle<Memory>,
    },
    /// A placeholder while the memory moves from one state to the other.
    Transition,
}

/// The memory of a workload, and the positions of the lanes in it.
#[derive(Debug, Default)]
struct Memory {
    working_set: Option<Region>,
    ballast: Option<Region>,
    walks: Vec<Walk>,
}

impl Engine {
    /// Creates an engine with an idle workload and no memory.
    pub fn new(huge_pages: HugePages) -> Self {
        Self {
            workload: Workload::default(),
            huge_pages,
            meter: Arc::default(),
            state: State::Stopped(Memory::default()),
        }
    }

    /// Returns the counters of the lanes, which start with the creation of the engine.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Returns the current workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Replaces the workload: allocates and fills memory where it changed, and continues dirtying if the
    /// engine was running. Memory that is the same in both workloads is reused, so a new rate takes effect
    /// within milliseconds.
    ///
    /// # Errors
    ///
    /// If the workload is invalid or there is not enough memory, the engine is unchanged. After
    /// [`Error::Map`] it holds no memory, and after [`Error::Thread`] it is stopped.
    pub fn set(&mut self, workload: Workload) -> Result<(), Error> {
        workload.check()?;
        workload.check_cpus(allowed_cpus().len().max(1))?;
        let reuse = Reuse::between(&self.workload, &workload);
        self.check_memory(&workload)?;
        let was_running = self.is_running();
        let mut memory = self.stop_lanes();
        let outcome = memory.change(&workload, reuse);
        self.workload = if outcome.is_ok() { workload } else { Workload::default() };
        self.state = State::Stopped(memory);
        if was_running {
            self.start()?;
        }
        outcome
    }

    /// Starts dirtying. Does nothing if the engine is already running.
    ///
    /// # Errors
    ///
    /// Fails if a thread cannot be started. The engine is stopped then.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        let mut memory = self.stop_lanes();
        let stop = Arc::new(AtomicBool::new(false));
        let (workload, meter, stop_lanes) = (self.workload.clone(), self.meter(), Arc::clone(&stop));
        let (report, started) = mpsc::sync_channel(1);
        let runner = thread::Builder::new().name("dirtier".into()).spawn(move || {
            // Signals are for the thread that uses the engine. The lanes inherit this.
            let _ = SigSet::all().thread_block();
            memory.dirty(&workload, &meter, &stop_lanes, &report);
            memory
        });
        let memory = runner.map_err(|cause| {
            // The memory was moved into the closure and is freed with it.
            self.workload = Workload::default();
            self.state = State::Stopped(Memory::default());
            Error::thread(cause)
        })?;
        self.state = State::Running { stop, memory };
        self.meter.set_running(true);
        started.recv().expect("the runner reports before it ends").map_err(|cause| {
            // Before stopping, while the threads that did start still count towards the limit.
            let error = Error::thread(cause);
            self.stop();
            error
        })
    }

    /// Stops dirtying. Returns when all threads have stopped writing.
    pub fn stop(&mut self) {
        self.state = State::Stopped(self.stop_lanes());
    }

    /// Stops dirtying and compares all memory with its expected content.
    pub fn verify(&mut self) -> Verification {
        let memory = self.stop_lanes();
        let regions = [(&memory.working_set, Area::WorkingSet), (&memory.ballast, Area::Ballast)];
        let verification = regions
            .into_iter()
            .filter_map(|(region, area)| Some(region.as_ref()?.verify(area)))
            .fold(Verification::default(), Verification::and);
        self.state = State::Stopped(memory);
        verification
    }

    /// Returns whether the engine is started. A started engine dirties memory, unless the rate is 0.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Stops the lanes if they are running, and takes the memory. The caller must set the next state.
    fn stop_lanes(&mut self) -> Memory {
        let memory = match std::mem::replace(&mut self.state, State::Transition) {
            State::Stopped(memory) => memory,
            State::Running { stop, memory } => {
                stop.store(true, Relaxed);
                memory.join().expect("the dirtying threads do not panic")
            }
            State::Transition => unreachable!("a transition always ends in another state"),
        };
        self.meter.set_running(false);
        memory
    }

    /// Checks that there is enough memory for a workload, having reserved huge pages if the engine may.
    fn check_memory(&self, workload: &Workload) -> Result<(), Error> {
        if self.huge_pages == HugePages::ReserveMissing {
            reserve_huge_pages(workload)?;
        }
        let mut system = SystemMemory::probe().map_err(Error::Probe)?;
        // The memory held now is either reused or freed before new memory is allocated.
        system.add_available(&self.workload);
        let mut checked = system.check(workload);
        if self.huge_pages == HugePages::ReserveMissing && checked.is_err() {
            // Too few pages are useless, and reserving them takes memory from everything else.
            reserve_huge_pages(&self.workload)?;
            if let Err(MemoryError::TooFewHugePages { remedy, .. }) = &mut checked {
                "the kernel can reserve no more; make the working set smaller, or provide more memory"
                    .clone_into(remedy);
            }
        }
        Ok(checked?)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_lanes();
    }
}

/// The memory of the previous workload that the next workload can reuse.
#[derive(Debug, Clone, Copy)]
struct Reuse {
    working_set: bool,
    ballast: bool,
    walks: bool,
}

impl Reuse {
    /// Compares two consecutive workloads.
    fn between(before: &Workload, after: &Workload) -> Self {
        let working_set = |w: &Workload| (pages_for(w.working_set), w.page_size, working_set_pattern(w));
        let ballast = |w: &Workload| (pages_for(w.ballast), ballast_pattern(w));
        let walks = |w: &Workload| (working_set(w), w.order, w.threads);
        Self {
            working_set: working_set(before) == working_set(after),
            ballast: ballast(before) == ballast(after),
            walks: walks(before) == walks(after),
        }
    }
}

fn working_set_pattern(workload: &Workload) -> Pattern {
    Pattern { content: workload.content, write: workload.write, seed: workload.seed }
}

fn ballast_pattern(workload: &Workload) -> Pattern {
    // A different seed, so that no page of the ballast equals a page of the working set.
    Pattern { content: workload.ballast_content, write: Write::Page, seed: !workload.seed }
}

impl Memory {
    /// Turns this memory into the memory of `workload`. It is empty after an error.
    fn change(&mut self, workload: &Workload, reuse: Reuse) -> Result<(), Error> {
        // Free memory before allocating: there may not be enough for both.
        if !reuse.working_set {
            self.working_set = None;
        }
        if !reuse.ballast {
            self.ballast = None;
        }
        if !reuse.walks {
            self.walks.clear();
        }
        self.fill(workload).inspect_err(|_| *self = Self::default())
    }

    /// Allocates and fills the regions that are missing.
    fn fill(&mut self, workload: &Workload) -> Result<(), Error> {
        let failed = |area, size| move |errno| Error::Map { area, size, cause: explained(errno) };
        let ballast_pages = pages_for(workload.ballast);
        if self.ballast.is_none() && ballast_pages > 0 {
            let region =
                Region::new(ballast_pages, Backing::Fastest, ballast_pattern(workload), Usage::Static);
            self.ballast = Some(region.map_err(failed("ballast", workload.ballast))?);
        }
        let pages = pages_for(workload.working_set);
        if self.working_set.is_none() && pages > 0 {
            let backing = match workload.page_size {
                PageSize::Small => Backing::Small,
                huge => Backing::Reserved(huge.bytes()),
            };
            let region = Region::new(pages, backing, working_set_pattern(workload), Usage::Dirtied);
            self.working_set = Some(region.map_err(failed("working set", workload.working_set))?);
        }
        Ok(())
    }

    /// Starts the lanes, reports whether all of them could be started, and waits until they have stopped.
    fn dirty(
        &mut self,
        workload: &Workload,
        meter: &Meter,
        stop: &AtomicBool,
        report: &SyncSender<io::Result<()>>,
    ) {
        let count = workload.threads as usize;
        let meters = meter.lanes(count);
        let cpus = allowed_cpus();
        let partitions = self.working_set.as_mut().map(|region| region.partitions(count)).unwrap_or_default();
        let lane_count = partitions.len() as u64;
        if self.walks.is_empty() {
            let walk = |(lane, partition): (u64, &Partition)| {
                Walk::new(workload, partition.pages.len() as u64, lane)
            };
            self.walks = (0..).zip(&partitions).map(walk).collect();
        }
        let mut lanes = (0..).zip(partitions).zip(&mut self.walks).zip(&meters);
        let schedule = Schedule::new(workload, monotonic_ns());
        thread::scope(|scope| {
            let started = lanes.try_for_each(|(((number, partition), walk), meter)| {
                let lane = Lane { number, lanes: lane_count, partition, walk, meter };
                let (schedule, cpu) = (&schedule, cpus.get(number as usize % cpus.len().max(1)).copied());
                let run = move || {
                    pin_to(cpu);
                    wake_precisely();
                    lane.run(schedule, &Monotonic, stop);
                };
                thread::Builder::new().name(format!("lane {number}")).spawn_scoped(scope, run).map(drop)
            });
            // If a lane could not be started, the receiver of the report stops the others.
            let _ = report.send(started);
        });
    }
}

/// Explains an error of allocating memory: there was enough memory when it was checked.
fn explained(errno: Errno) -> io::Error {
    match errno {
        Errno::ENOMEM => io::Error::other("there was enough a moment ago, and another program has taken it"),
        Errno::EFAULT => io::Error::other(
            "there were enough huge pages a moment ago, and another program has taken them, or a limit on \
             huge pages that cannot be read here is reached",
        ),
        other => other.into(),
    }
}

/// Returns the numbers of the CPUs that this process may use.
fn allowed_cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect()
}

/// Pins the calling thread to a CPU.
fn pin_to(cpu: Option<usize>) {
    let mut only = CpuSet::new();
    if cpu.is_some_and(|cpu| only.set(cpu).is_ok()) {
        // This fails if the CPU has become unavailable since it was listed. Then the thread is not pinned.
        let _ = sched_setaffinity(Pid::from_raw(0), &only);
    }
}

/// Makes the kernel reserve exactly the huge pages that a workload needs, and free all others.
fn reserve_huge_pages(workload: &Workload) -> Result<(), Error> {
    for size in [PageSize::Huge2M, PageSize::Huge1G] {
        let need = if size == workload.page_size { machine::huge_pages_needed(workload) } else { 0 };
        let path = huge_pages::file(size, "nr_hugepages");
        if huge_pages::read(size, "nr_hugepages").is_some_and(|reserved| reserved != need) {
            // The kernel may reserve fewer pages than requested. The check for free memory detects that.
            fs::write(&path, need.to_string())
                .map_err(|cause| Error::system(format!("write {need} to {path}"), cause))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Reader;

    fn workload(yaml: &str) -> Workload {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn engine(yaml: &str) -> (Engine, Reader) {
        let mut engine = Engine::new(HugePages::Reserved);
        engine.set(workload(yaml)).unwrap();
        let reader = Reader::new(engine.meter());
        (engine, reader)
    }

    /// Waits, without a time limit, until `pages` more pages have been dirtied.
    fn wait_for(pages: u64, reader: &mut Reader) {
        let mut seen = 0;
        while seen < pages {
            seen += reader.interval().pages_dirtied;
            thread::yield_now();
        }
    }

    fn assert_good(engine: &mut Engine, pages: u64) {
        let verification = engine.verify();
        assert_eq!((verification.pages_checked, verification.first_bad), (pages, None));
    }

    #[test]
    fn every_kind_of_workload_verifies() {
        for yaml in [
            "{ rate: unlimited, working_set: 2MiB }",
            "{ rate: unlimited, working_set: 2MiB, write: word, content: constant }",
            "{ rate: unlimited, working_set: 2MiB, order: random, content: compressible:30% }",
            "{ rate: unlimited, working_set: 2MiB, order: hot-cold:80%/20%, content: increment, threads: 3 }",
            "{ rate: 400MB/s, working_set: 2MiB, content: zero, catch_up: burst, threads: 2 }",
        ] {
            let (mut engine, mut reader) = engine(yaml);
            engine.start().unwrap();
            wait_for(2000, &mut reader);
            assert_good(&mut engine, 512);
            assert!(!engine.is_running());
        }
    }

    #[test]
    fn nothing_is_dirtied_before_start_or_after_stop() {
        let (mut engine, mut reader) = engine("{ rate: unlimited, working_set: 1MiB }");
        assert_eq!(reader.interval().pages_dirtied, 0);
        engine.start().unwrap();
        engine.start().unwrap();
        wait_for(1, &mut reader);
        engine.stop();
        engine.stop();
        reader.interval();
        assert_eq!(reader.interval().pages_dirtied, 0);
    }

    #[test]
    fn a_new_rate_keeps_the_memory_and_the_engine_running() {
        let (mut engine, mut reader) = engine("{ rate: unlimited, working_set: 1MiB, ballast: 1MiB }");
        engine.start().unwrap();
        wait_for(1000, &mut reader);
        engine.set(workload("{ rate: 0, working_set: 1MiB, ballast: 1MiB }")).unwrap();
        assert!(engine.is_running());
        engine.stop();
        // In newly filled memory, all pages would be at generation 0.
        let State::Stopped(memory) = &engine.state else { panic!("it was stopped") };
        let region = memory.working_set.as_ref().unwrap();
        assert!(region.generations().iter().all(|&generation| generation > 0));
        assert_good(&mut engine, 512);
    }

    #[test]
    fn new_sizes_content_and_threads_replace_the_memory() {
        let (mut engine, mut reader) = engine("{ rate: unlimited, working_set: 1MiB, ballast: 1MiB }");
        engine.start().unwrap();
        wait_for(1000, &mut reader);
        for yaml in [
            "{ rate: unlimited, working_set: 3MiB, ballast: 1MiB }",
            "{ rate: unlimited, working_set: 3MiB, ballast: 2MiB, content: increment }",
            "{ rate: unlimited, working_set: 3MiB, ballast: 2MiB, threads: 4 }",
            "{ rate: unlimited, working_set: 3MiB, ballast: 2MiB, order: random, seed: 2 }",
        ] {
            engine.set(workload(yaml)).unwrap();
            assert!(engine.is_running());
            wait_for(1000, &mut reader);
        }
        assert_good(&mut engine, 768 + 512);
    }

    #[test]
    fn a_refused_workload_changes_nothing() {
        let (mut engine, mut reader) = engine("{ rate: unlimited, working_set: 1MiB }");
        engine.start().unwrap();
        for yaml in ["{ rate: 1MB/s, working_set: 100TB }", "{ rate: 1MB/s }"] {
            let error = engine.set(workload(yaml)).unwrap_err();
            assert!(error.is_bad_settings(), "{error}");
        }
        assert_eq!(engine.workload(), &workload("{ rate: unlimited, working_set: 1MiB }"));
        wait_for(1000, &mut reader);
        assert_good(&mut engine, 256);
    }

    #[test]
    fn an_engine_without_memory_verifies_nothing() {
        let mut engine = Engine::new(HugePages::Reserved);
        engine.start().unwrap();
        assert!(engine.is_running());
        assert_eq!(engine.verify(), Verification::default());
    }
}
