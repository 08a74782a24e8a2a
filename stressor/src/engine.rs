//! The stressor itself: memory, and threads that dirty it, behind five verbs.
//!
//! Stopped, the engine holds the memory and no thread runs. Started, the memory belongs to a thread of its
//! own, which splits it among the lanes and hands it back when they have ended: so nobody can look at memory
//! that is being written, and no lock is needed to prevent it.

use crate::{
    clock::{Monotonic, monotonic_ns, wake_precisely},
    content::Recipe,
    error::Error,
    lane::{Lane, Schedule},
    machine::{self, Machine},
    memory::{Part, Region, Use},
    meter::Meter,
    sys::Backing,
    verify::{Area, Verification},
    walk::Walk,
    workload::{PageSize, Workload, Write, pages_for},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
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

/// Who sees to it that there are huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// They have been reserved, or the workload is refused.
    Reserved,
    /// The engine has the kernel reserve what is missing. For a machine that has no other purpose.
    ReserveMissing,
}

/// Dirties memory as a [`Workload`] says. Dropped, it stops.
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
    /// Only while the memory is on its way from one state to the other.
    Between,
}

/// The memory of a workload, and where the lanes are in it.
#[derive(Debug, Default)]
struct Memory {
    working_set: Option<Region>,
    ballast: Option<Region>,
    walks: Vec<Walk>,
}

impl Engine {
    /// An engine with nothing to do and no memory.
    pub fn new(huge_pages: HugePages) -> Self {
        Self {
            workload: Workload::default(),
            huge_pages,
            meter: Arc::default(),
            state: State::Stopped(Memory::default()),
        }
    }

    /// What the lanes count, from the engine's beginning.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// What the engine has been set to do.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Makes this the workload: allocates and fills what changed, and goes on dirtying if it was. Memory
    /// that both workloads describe alike stays as it is, so a new rate takes effect within milliseconds.
    ///
    /// # Errors
    ///
    /// When the workload contradicts itself or the machine lacks the memory, everything is as it was.
    /// [`Error::Map`] and [`Error::Thread`] come later: then the engine holds no memory, or is stopped.
    pub fn set(&mut self, workload: Workload) -> Result<(), Error> {
        workload.check()?;
        let keep = Keep::between(&self.workload, &workload);
        self.check_machine(&workload)?;
        let was_running = self.is_running();
        let mut memory = self.stop_lanes();
        let outcome = memory.change(&workload, keep);
        self.workload = if outcome.is_ok() { workload } else { Workload::default() };
        self.state = State::Stopped(memory);
        if was_running {
            self.start()?;
        }
        outcome
    }

    /// Starts dirtying; nothing, if it does already.
    ///
    /// # Errors
    ///
    /// When there are not as many threads to be had; then the engine is stopped.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        let mut memory = self.stop_lanes();
        let stop = Arc::new(AtomicBool::new(false));
        let (workload, meter, stop_lanes) = (self.workload.clone(), self.meter(), Arc::clone(&stop));
        let (report, started) = mpsc::sync_channel(1);
        let runner = thread::Builder::new().name("dirtier".into()).spawn(move || {
            memory.dirty(&workload, &meter, &stop_lanes, &report);
            memory
        });
        let memory = runner.map_err(|cause| {
            // The memory is gone with the closure.
            self.workload = Workload::default();
            self.state = State::Stopped(Memory::default());
            Error::Thread(cause)
        })?;
        self.state = State::Running { stop, memory };
        self.meter.set_running(true);
        started.recv().expect("the runner reports before it ends").map_err(|cause| {
            self.stop();
            Error::Thread(cause)
        })
    }

    /// Stops dirtying. When it returns, no thread writes any more.
    pub fn stop(&mut self) {
        self.state = State::Stopped(self.stop_lanes());
    }

    /// Stops, and compares all memory with what was written to it.
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

    /// Whether it dirties, or would if the rate were not 0.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn stop_lanes(&mut self) -> Memory {
        let memory = match std::mem::replace(&mut self.state, State::Between) {
            State::Stopped(memory) => memory,
            State::Running { stop, memory } => {
                stop.store(true, Relaxed);
                memory.join().expect("the dirtying threads do not panic")
            }
            State::Between => unreachable!("every change of state ends in another state"),
        };
        self.meter.set_running(false);
        memory
    }

    fn check_machine(&self, workload: &Workload) -> Result<(), Error> {
        if self.huge_pages == HugePages::ReserveMissing {
            reserve_huge_pages(workload)?;
        }
        let mut machine = Machine::probe().map_err(Error::Probe)?;
        // What is held now is either given back first or already there.
        machine.add(&self.workload);
        Ok(machine.check(workload)?)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_lanes();
    }
}

/// Which memory two workloads, the one before and the one after, describe alike.
#[derive(Debug, Clone, Copy)]
struct Keep {
    working_set: bool,
    ballast: bool,
    walks: bool,
}

impl Keep {
    fn between(before: &Workload, after: &Workload) -> Self {
        let working_set = |w: &Workload| (pages_for(w.working_set), w.page_size, working_set_recipe(w));
        let ballast = |w: &Workload| (pages_for(w.ballast), ballast_recipe(w));
        let walks = |w: &Workload| (working_set(w), w.order, w.threads);
        Self {
            working_set: working_set(before) == working_set(after),
            ballast: ballast(before) == ballast(after),
            walks: walks(before) == walks(after),
        }
    }
}

fn working_set_recipe(workload: &Workload) -> Recipe {
    Recipe { content: workload.content, write: workload.write, seed: workload.seed }
}

fn ballast_recipe(workload: &Workload) -> Recipe {
    // Another seed, so that no page of the ballast is like one of the working set.
    Recipe { content: workload.ballast_content, write: Write::Page, seed: !workload.seed }
}

impl Memory {
    /// Makes this the memory of `workload`. After an error it is empty.
    fn change(&mut self, workload: &Workload, keep: Keep) -> Result<(), Error> {
        // Everything that goes, goes first: there may not be room for both.
        if !keep.working_set {
            self.working_set = None;
        }
        if !keep.ballast {
            self.ballast = None;
        }
        if !keep.walks {
            self.walks.clear();
        }
        self.fill(workload).inspect_err(|_| *self = Self::default())
    }

    fn fill(&mut self, workload: &Workload) -> Result<(), Error> {
        let failed = |area, size| move |errno: Errno| Error::Map { area, size, cause: errno.into() };
        let ballast_pages = pages_for(workload.ballast);
        if self.ballast.is_none() && ballast_pages > 0 {
            let region =
                Region::new(ballast_pages, Backing::Fastest, ballast_recipe(workload), Use::LeftAlone);
            self.ballast = Some(region.map_err(failed("ballast", workload.ballast))?);
        }
        let pages = pages_for(workload.working_set);
        if self.working_set.is_none() && pages > 0 {
            let backing = match workload.page_size {
                PageSize::Small => Backing::Small,
                huge => Backing::Reserved(huge.bytes()),
            };
            let region = Region::new(pages, backing, working_set_recipe(workload), Use::Dirtied);
            self.working_set = Some(region.map_err(failed("working set", workload.working_set))?);
        }
        Ok(())
    }

    /// Runs the lanes until they are told to stop, having reported whether all of them could be started.
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
        let parts = self.working_set.as_mut().map(|region| region.parts(count)).unwrap_or_default();
        let of = parts.len() as u64;
        if self.walks.is_empty() {
            let walk = |(lane, part): (u64, &Part)| Walk::new(workload, part.pages.len() as u64, lane);
            self.walks = (0..).zip(&parts).map(walk).collect();
        }
        let mut lanes = (0..).zip(parts).zip(&mut self.walks).zip(&meters);
        let schedule = Schedule::new(workload, monotonic_ns());
        thread::scope(|scope| {
            let started = lanes.try_for_each(|(((number, part), walk), meter)| {
                let lane = Lane { number, of, part, walk, meter };
                let (schedule, cpu) = (&schedule, cpus.get(number as usize % cpus.len().max(1)).copied());
                let run = move || {
                    pin_to(cpu);
                    wake_precisely();
                    lane.run(schedule, &Monotonic, stop);
                };
                thread::Builder::new().name(format!("lane {number}")).spawn_scoped(scope, run).map(drop)
            });
            // If there are too few, whoever reads the report stops the others.
            let _ = report.send(started);
        });
    }
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect()
}

/// Keeps the calling thread on one CPU.
fn pin_to(cpu: Option<usize>) {
    let mut only = CpuSet::new();
    if cpu.is_some_and(|cpu| only.set(cpu).is_ok()) {
        // A CPU that was taken away since it was listed: then the thread runs where it can.
        let _ = sched_setaffinity(Pid::from_raw(0), &only);
    }
}

/// Has the kernel reserve exactly the huge pages that a workload needs.
fn reserve_huge_pages(workload: &Workload) -> Result<(), Error> {
    for size in [PageSize::Huge2M, PageSize::Huge1G] {
        let need = if size == workload.page_size { machine::huge_pages_needed(workload) } else { 0 };
        let path = machine::huge_page_file(size, "nr_hugepages");
        if machine::huge_pages(size, "nr_hugepages").is_some_and(|reserved| reserved != need) {
            // Too few may come of it, which the check finds.
            fs::write(&path, need.to_string())
                .map_err(|cause| Error::system(format!("write {need} to {path}"), cause))?;
        }
    }
    Ok(())
}
