//! The supervisor: a small process that owns the ports, and keeps a worker behind them. Somebody
//! accepts at every moment: the worker that serves, or the stand-in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, WaitStatus, wait};

use super::handover::{Ports, Workers};
use super::not_taken;
use super::silence::{Found, Silence};
use super::stand_in::StandIn;
use super::wait::Wait;
use super::wire::{Program, Word, Worker};
use crate::cli::signals::{self, Order, Orders};
use crate::cli::{CliError, Exit};
use crate::limits::{
    WORKER_BACK_OFF, WORKER_HEALTHY_AFTER, WORKER_KILLED_TIMEOUT, WORKER_SILENT_MAX, WORKER_START_TIMEOUT,
    WORKER_STOP_TIMEOUT,
};
use crate::value::format_duration;

/// Keeps a worker behind `ports` until told to stop. `workers`: those of the version before.
pub(super) fn run(program: Program, ports: Ports, workers: Option<Workers>) -> Result<(), CliError> {
    let orders = Orders::take()?;
    let mut supervisor = match workers {
        Some(workers) => Supervisor::take_over(program, ports, workers)?,
        None => Supervisor::start_first(program, ports),
    };
    let result = supervisor.keep(&orders);
    if let Some(stand_in) = supervisor.stand_in.take() {
        stand_in.finish();
    }
    result
}

struct Supervisor {
    program: Program,
    ports: Ports,
    /// Accepts.
    serving: Option<Serving>,
    /// Does not yet.
    starting: Option<Leaving>,
    /// It is of the file that lies at our path now, which need not be ours any more.
    starts_newest: bool,
    /// True while a worker of another version serves and this process has not become that version yet.
    upgrade_due: bool,
    /// Does no more.
    ending: Vec<Leaving>,
    /// While nobody is serving.
    stand_in: Option<StandIn>,
    /// When the next worker is due.
    start_at: Option<Instant>,
    back_off: Duration,
    /// A reload was asked for while a worker was starting, which may have read its file before.
    reload_again: bool,
    /// A worker has served: from then on one that ends is started again.
    has_served: bool,
    stopping: bool,
    /// A worker did not stop in order.
    ended_badly: bool,
}

struct Serving {
    worker: Worker,
    since: Instant,
    silence: Silence,
}

/// A worker that has until `due` for what it is at.
struct Leaving {
    worker: Worker,
    due: Instant,
    killed: bool,
}

impl Supervisor {
    fn new(program: Program, ports: Ports) -> Self {
        Self {
            program,
            ports,
            serving: None,
            starting: None,
            starts_newest: false,
            upgrade_due: false,
            ending: Vec::new(),
            stand_in: None,
            start_at: None,
            back_off: WORKER_BACK_OFF.0,
            reload_again: false,
            has_served: false,
            stopping: false,
            ended_badly: false,
        }
    }

    fn start_first(program: Program, ports: Ports) -> Self {
        let mut supervisor = Self::new(program, ports);
        supervisor.start_at = Some(Instant::now());
        supervisor.stand_in();
        supervisor
    }

    fn take_over(program: Program, ports: Ports, workers: Workers) -> Result<Self, CliError> {
        let Workers { serving: (pid, wire), ending } = workers;
        let mut supervisor = Self::new(program, ports);
        supervisor.serve(Worker::take_over(pid, Some(wire)).map_err(not_taken)?);
        for pid in ending {
            supervisor.let_end(Worker::take_over(pid, None).map_err(not_taken)?);
        }
        tracing::info!(worker = pid, "this version has taken over");
        Ok(supervisor)
    }

    fn keep(&mut self, orders: &Orders) -> Result<(), CliError> {
        // Of those who ended while one version became the next nobody was told.
        self.reap()?;
        loop {
            self.wait(orders).map_err(|source| CliError::Process { action: "wait for events", source })?;
            while let Some(order) = orders.next() {
                match order {
                    Order::Stop(name) => self.stop(name)?,
                    Order::Reload => self.reload(),
                    Order::ChildEnded => self.reap()?,
                }
            }
            self.listen();
            self.look(Instant::now());
            self.upgrade()?;
            self.act()?;
            if self.stopping && self.ending.is_empty() {
                return if self.ended_badly { Err(CliError::WorkerStoppedBadly) } else { Ok(()) };
            }
        }
    }

    /// Until something has happened, or is due.
    fn wait(&self, orders: &Orders) -> io::Result<()> {
        let mut wait = Wait::default();
        wait.readable(orders);
        if let Some(Serving { worker, silence, .. }) = &self.serving {
            worker.wait_for(&mut wait);
            silence.wait_for(&mut wait);
        }
        if let Some(starting) = &self.starting {
            starting.worker.wait_for(&mut wait);
            wait.until(starting.due);
        }
        for ending in &self.ending {
            ending.worker.wait_for(&mut wait);
            wait.until(ending.due);
        }
        self.start_at.iter().for_each(|at| wait.until(*at));
        self.stand_in.iter().for_each(|stand_in| stand_in.wait_for(&mut wait));
        wait.wait()
    }

    /// What workers say.
    fn listen(&mut self) {
        while let Some(word) = self.starting.as_mut().and_then(|starting| starting.worker.says()) {
            if word == Word::Serving {
                self.replace();
            }
        }
        while let Some(word) = self.serving.as_mut().and_then(|serving| serving.worker.says()) {
            if word == Word::Stopping {
                self.stand_in_for_stopping();
            }
        }
        for ending in &mut self.ending {
            while let Some(word) = ending.worker.says() {
                if word == Word::Stopping && !ending.killed {
                    ending.due = Instant::now() + WORKER_STOP_TIMEOUT;
                }
            }
        }
    }

    /// Whether the worker answers, and what is there for the stand-in.
    fn look(&mut self, now: Instant) {
        if self.serving.as_mut().is_some_and(|serving| serving.silence.look(now) == Found::Silent) {
            self.end_silent();
        }
        if let Some(stand_in) = &mut self.stand_in {
            stand_in.look(now);
        }
        self.stand_in.take_if(|stand_in| stand_in.has_ended());
    }

    /// From here on nobody waits, whatever happens to the workers.
    fn stand_in(&mut self) {
        match &mut self.stand_in {
            Some(stand_in) => stand_in.stand_in(),
            None => match StandIn::start(&self.ports) {
                Ok(stand_in) => self.stand_in = Some(stand_in),
                Err(error) => tracing::error!(%error, "could not answer while no worker does"),
            },
        }
    }

    fn serve(&mut self, worker: Worker) {
        let now = Instant::now();
        let silence = Silence::of_worker(reachable(&self.ports), now);
        self.serving = Some(Serving { worker, since: now, silence });
        self.has_served = true;
    }

    /// The worker that was starting serves.
    fn replace(&mut self) {
        let Some(Leaving { worker, .. }) = self.starting.take() else { return };
        if self.stopping {
            self.let_end(worker);
            return;
        }
        let before = self.serving.take();
        self.serve(worker);
        if let Some(Serving { worker, .. }) = before {
            tracing::info!(worker = worker.pid(), "a new worker serves; the one before ends its requests");
            self.tell_to_end(worker);
        }
        if let Some(stand_in) = &mut self.stand_in {
            stand_in.stand_back();
        }
        // A worker of our own version says nothing about a newer one that nobody asked for.
        self.upgrade_due = self.starts_newest && self.program.is_replaced();
        if !self.upgrade_due && std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    /// Becomes the newest version once the stand-in has ended, whose connections would be cut. Until then the worker
    /// is probed and signals are obeyed.
    fn upgrade(&mut self) -> Result<(), CliError> {
        let busy = self.stopping || self.starting.is_some() || self.stand_in.is_some();
        if !self.upgrade_due || busy || self.serving.is_none() {
            return Ok(());
        }
        self.upgrade_due = false;
        if std::mem::take(&mut self.reload_again) {
            signals::reload_again();
        }
        self.become_newest();
        // Of a child that ended meanwhile nobody was told.
        self.reap()
    }

    /// Tells a worker to end. One that does not say that it stops within [`WORKER_SILENT_MAX`] is frozen, and is
    /// killed: it is not probed any more.
    fn tell_to_end(&mut self, worker: Worker) {
        worker.signal(Signal::TERM);
        let time = if worker.wire().is_some() { WORKER_SILENT_MAX } else { WORKER_STOP_TIMEOUT };
        self.ending.push(Leaving { worker, due: Instant::now() + time, killed: false });
    }

    fn let_end(&mut self, worker: Worker) {
        self.ending.push(Leaving { worker, due: Instant::now() + WORKER_STOP_TIMEOUT, killed: false });
    }

    /// The version that has just shown a working worker becomes our own too. Signals are held back: until its
    /// handlers are there, SIGHUP would end it.
    fn become_newest(&mut self) {
        let Some((pid, wire)) = self
            .serving
            .as_ref()
            .and_then(|Serving { worker, .. }| Some((worker.pid(), worker.wire()?.as_fd())))
        else {
            return;
        };
        let ending = self.ending.iter().map(|ending| ending.worker.pid()).collect();
        let error = match self.ports.for_supervisor((pid, wire), ending) {
            Ok(stdin) => {
                signals::hold_child_ended(false);
                let error = self.program.become_newest(stdin);
                signals::hold_child_ended(true);
                signals::hold_broken_pipe();
                error
            }
            Err(error) => error,
        };
        tracing::error!(
            %error,
            "could not run the new version of the supervisor: its worker serves under the old one; try \
             again with SIGHUP"
        );
    }

    fn start(&mut self, newest: bool) -> io::Result<()> {
        self.start_at = None;
        self.starts_newest = newest;
        // It inherits that signals are held back, until its handlers are there.
        let worker = Worker::start(&self.program, &self.ports, newest)?;
        tracing::debug!(worker = worker.pid(), "worker started");
        self.starting = Some(Leaving { worker, due: Instant::now() + WORKER_START_TIMEOUT, killed: false });
        Ok(())
    }

    /// Starts one after a pause that grows while workers do not last.
    fn start_later(&mut self) {
        if self.stopping || self.serving.is_some() || self.starting.is_some() || self.start_at.is_some() {
            return;
        }
        tracing::info!("starting a worker in {}", format_duration(self.back_off));
        self.start_at = Some(Instant::now() + self.back_off);
        self.back_off = (self.back_off * 2).min(WORKER_BACK_OFF.1);
    }

    /// What the serving worker's end means.
    fn lost(&mut self, since: Instant) {
        if since.elapsed() >= WORKER_HEALTHY_AFTER {
            self.back_off = WORKER_BACK_OFF.0;
        }
        self.upgrade_due = false;
        self.stand_in();
        self.start_later();
    }

    fn reload(&mut self) {
        if self.stopping || self.starting.is_some() || self.upgrade_due {
            self.reload_again = true;
            return;
        }
        tracing::info!("reloading: a new worker starts beside the one that serves");
        if let Err(error) = self.start(true) {
            tracing::error!(%error, "could not start a new worker; what serves stays");
            self.start_later();
        }
    }

    /// Silent: killed first, told later, because a log can be what it hangs on.
    fn end_silent(&mut self) {
        let Some(Serving { worker, since, .. }) = self.serving.take() else { return };
        worker.signal(Signal::KILL);
        self.stand_in();
        let waited = format_duration(WORKER_SILENT_MAX);
        tracing::error!(worker = worker.pid(), "the worker has not answered for {waited}: killed");
        self.ending.push(Leaving { worker, due: Instant::now() + WORKER_KILLED_TIMEOUT, killed: true });
        self.lost(since);
    }

    /// Somebody else than we has told it to stop.
    fn stand_in_for_stopping(&mut self) {
        let Some(Serving { worker, since, .. }) = self.serving.take() else { return };
        tracing::warn!(
            worker = worker.pid(),
            "another process has told the worker to stop: the supervisor starts a new one"
        );
        self.let_end(worker);
        self.lost(since);
    }

    /// The first time in order, the second time at once.
    fn stop(&mut self, name: &'static str) -> Result<(), CliError> {
        self.stand_in();
        if self.stopping {
            self.ending.iter().for_each(|ending| ending.worker.signal(Signal::KILL));
            return Err(CliError::StoppedTwice);
        }
        tracing::info!(signal = name, "stopping; a second signal ends this at once");
        (self.stopping, self.start_at) = (true, None);
        if let Some(Serving { worker, .. }) = self.serving.take() {
            self.tell_to_end(worker);
        }
        if let Some(Leaving { worker, .. }) = self.starting.take() {
            worker.signal(Signal::KILL);
            self.ending.push(Leaving { worker, due: Instant::now() + WORKER_KILLED_TIMEOUT, killed: true });
        }
        Ok(())
    }

    /// Waits for all that have ended.
    fn reap(&mut self) -> Result<(), CliError> {
        // As the first process of a container we also get children that we never had.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.ended(pid.as_raw_nonzero().get(), status)?;
        }
        Ok(())
    }

    fn ended(&mut self, pid: i32, status: WaitStatus) -> Result<(), CliError> {
        let how = describe(status);
        if let Some(Serving { since, .. }) = self.serving.take_if(|serving| serving.worker.pid() == pid) {
            self.stand_in();
            tracing::error!(worker = pid, "the worker ended: {how}");
            self.lost(since);
        } else if self.starting.take_if(|starting| starting.worker.pid() == pid).is_some() {
            self.did_not_start(pid, status)?;
        } else if let Some(at) = self.ending.iter().position(|ending| ending.worker.pid() == pid) {
            let ended = self.ending.swap_remove(at);
            tracing::info!(worker = pid, "a worker ended: {how}");
            let in_order = ended.killed || status.exit_status() == Some(Exit::Done as i32);
            self.ended_badly |= self.stopping && !in_order;
        }
        Ok(())
    }

    /// The first worker has told on stderr why not, and trying again is the operator's decision.
    fn did_not_start(&mut self, pid: i32, status: WaitStatus) -> Result<(), CliError> {
        let how = describe(status);
        if let Some(code) = status.exit_status().filter(|_| !self.has_served) {
            return Err(CliError::WorkerDidNotStart { code });
        }
        if self.serving.is_some() {
            tracing::error!(worker = pid, "the new worker could not start ({how}); the one before stays");
            if std::mem::take(&mut self.reload_again) {
                self.reload();
            }
        } else {
            tracing::error!(worker = pid, "the worker could not start: {how}");
            self.start_later();
        }
        Ok(())
    }

    /// Whatever is due.
    fn act(&mut self) -> Result<(), CliError> {
        let now = Instant::now();
        if self.start_at.is_some_and(|at| at <= now)
            && let Err(source) = self.start(false)
        {
            let error = CliError::Process { action: "start the worker", source };
            if !self.has_served {
                return Err(error);
            }
            crate::cli::output::complain_or_drop(&error);
            self.start_later();
        }
        if let Some(late) = self.starting.take_if(|starting| starting.due <= now) {
            late.worker.signal(Signal::KILL);
            let waited = format_duration(WORKER_START_TIMEOUT);
            tracing::error!(worker = late.worker.pid(), "the new worker did not serve in {waited}: killed");
            self.ending.push(Leaving { due: now + WORKER_KILLED_TIMEOUT, killed: true, ..late });
            self.start_later();
            if self.serving.is_some() && std::mem::take(&mut self.reload_again) {
                self.reload();
            }
        }
        for late in self.ending.extract_if(.., |ending| ending.due <= now).collect::<Vec<_>>() {
            self.ended_badly |= self.stopping;
            if late.killed {
                tracing::error!(
                    worker = late.worker.pid(),
                    "a killed worker does not end: it waits in the kernel, mostly for a disk"
                );
                continue;
            }
            late.worker.signal(Signal::KILL);
            tracing::error!(worker = late.worker.pid(), "a worker did not stop in time: killed");
            self.ending.push(Leaving { due: now + WORKER_KILLED_TIMEOUT, killed: true, ..late });
        }
        Ok(())
    }
}

/// Where this host reaches its own mirror.
fn reachable(ports: &Ports) -> SocketAddr {
    let mut address = ports.mirror.local_addr().expect("a listening socket has an address");
    // `[::]` takes IPv4 too, and where IPv6 is off for the loopback there is no `::1`.
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "in an unknown way".to_owned(),
    }
}
