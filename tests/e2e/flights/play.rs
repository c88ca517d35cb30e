//! Plays one cell: all nodes begin to pull, something happens, and everything is checked at the end.

use std::time::{Duration, Instant};

use piccolo::oci::Digest;
use rustix::process::Signal;
use tokio::process::Child;

use super::cell::{At, Cell, How, LAYER_BYTES, MayFail, Who};
use super::site::{Ended, NODES, Pushed, RATE, Site, ends};
use crate::harness::image::layers;
use crate::harness::slow_link::LinkFaults;

/// A pull may take so much longer than without Piccolo.
const LATER_MAX: Duration = Duration::from_secs(20);
/// Time of a pull beside that of the bytes on the link, on a busy machine.
const OVERHEAD: Duration = Duration::from_secs(3);
/// A pull that the registry refuses ends within this time.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// Copies that leave the registry are counted with this tolerance.
const TOLERANCE: f64 = 1.05;
/// Time for the nodes to form a chain.
const CHAIN_WITHIN: Duration = Duration::from_secs(10);
/// Rate of the link while a cell is prepared, bytes a second.
const FAST: u64 = 1 << 30;
const OTHER_NAMESPACE: &str = "builds";

/// A cell on its site.
struct Play<'a> {
    site: &'a mut Site,
    cell: Cell,
    /// The nodes that have failed.
    victims: Vec<usize>,
}

/// Plays `cell`; returns a line about it, or what is wrong.
pub(super) async fn play(site: &mut Site, cell: Cell) -> Result<String, String> {
    site.configure(NODES - 1, cell.config()).await;
    let mut play = Play { site, cell, victims: Vec::new() };
    let result =
        if cell == Cell::OppositeOrder { play.opposite_order().await } else { play.one_image().await };
    play.heal().await;
    result
}

impl Play<'_> {
    async fn one_image(&mut self) -> Result<String, String> {
        let layers = layers(self.site.seed(), &LAYER_BYTES);
        let pushed = self.site.push(&layers);
        let first = usize::from(self.cell.has_holder());
        if first > 0 {
            self.site.link.runs_at(FAST);
            let holder = self.pulls(0..first, &pushed);
            self.judge(&ends(holder, Instant::now(), LATER_MAX).await, MayFail::Nobody)?;
            self.site.holds(0, &pushed.image).await;
            match self.cell {
                Cell::DamagedHolder => {
                    self.site.damage(0, &pushed.image.layers[0], LAYER_BYTES[0] as u64 / 2);
                }
                Cell::DeadHolder => {
                    self.site.kill_agent(0);
                    self.victims.push(0);
                }
                _ => {}
            }
            self.site.link.runs_at(RATE);
        }
        self.site.link.forget();
        self.before(&pushed);
        let begun = Instant::now();
        let last = if self.cell.is_late() { NODES - 1 } else { NODES };
        let mut pulls = self.pulls(first..last, &pushed);
        if self.cell == Cell::TwoNamespaces {
            pulls.push((NODES - 1, self.site.pull(NODES - 1, OTHER_NAMESPACE, &pushed.reference)));
        }
        let happened = self.happens(&pushed, &mut pulls).await;
        if happened.is_err() {
            self.site.link.has(LinkFaults::default());
        }
        let limit = self.limit(&pushed);
        let ended = ends(pulls, begun, limit).await;
        let checked = match happened {
            Ok(()) => self.check(&ended, &pushed).await,
            Err(problem) => Err(problem),
        };
        let line = format!("{}, {}", times(&ended), self.chain(&pushed));
        let result = checked.map(|copies| format!("{copies:.2} copies, {line}"));
        let result = result.map_err(|problem| format!("{problem}; {line}\n{}", self.stories(&pushed)));
        self.site.forget(pushed).await;
        result
    }

    async fn opposite_order(&mut self) -> Result<String, String> {
        let mut layers = layers(self.site.seed(), &LAYER_BYTES);
        let one = self.site.push(&layers);
        layers.reverse();
        let other = self.site.push(&layers);
        self.site.link.forget();
        let begun = Instant::now();
        let pulls = (0..NODES).map(|node| {
            let reference = if node % 2 == 0 { &one.reference } else { &other.reference };
            (node, self.site.pull_in_order(node, reference))
        });
        let ended = ends(pulls.collect(), begun, self.limit(&one)).await;
        let result = self.judge(&ended, MayFail::Nobody).and_then(|()| {
            let image = |node: usize| if node.is_multiple_of(2) { &one.image } else { &other.image };
            let problem = (0..NODES).find_map(|node| self.site.content_problem(node, image(node)));
            problem.map_or_else(|| self.copies(&one), Err)
        });
        let line = format!("{}, {}", times(&ended), self.chain(&one));
        let result = result.map(|copies| format!("{copies:.2} copies, {line}"));
        let result = result.map_err(|problem| format!("{problem}; {line}\n{}", self.stories(&one)));
        self.site.forget(one).await;
        self.site.forget(other).await;
        result
    }

    fn pulls(&self, nodes: std::ops::Range<usize>, pushed: &Pushed) -> Vec<(usize, Child)> {
        let is_other = |node: usize| self.cell == Cell::OtherNamespace && node == NODES - 1;
        let namespace = |node| if is_other(node) { OTHER_NAMESPACE } else { "k8s.io" };
        nodes.map(|node| (node, self.site.pull(node, namespace(node), &pushed.reference))).collect()
    }

    /// Time in which every pull ends.
    fn limit(&self, pushed: &Pushed) -> Duration {
        let rate = if let Cell::Slow(rate) = self.cell { rate } else { RATE };
        let undisturbed = Duration::from_secs_f64(pushed.size as f64 / rate as f64) + OVERHEAD;
        if self.cell.may_fail() == MayFail::All {
            REFUSED_WITHIN
        } else {
            undisturbed + self.cell.delay() + LATER_MAX
        }
    }

    /// What is so when the pulls begin.
    fn before(&self, pushed: &Pushed) {
        let at = |at: At| {
            let (layer, offset) = at.place();
            (pushed.image.layers[layer].clone(), offset)
        };
        let mut faults = LinkFaults { hold: self.cell.at().map(at), ..LinkFaults::default() };
        match self.cell {
            Cell::Slow(rate) => self.site.link.runs_at(rate),
            Cell::SilentAtFirst(_) => faults.is_silent = true,
            Cell::Refused(status) => faults.refuses = Some(status),
            Cell::WrongByte(wrong) => faults.wrong = Some(at(wrong)),
            Cell::WrongByteOnce(wrong) => {
                (faults.wrong, faults.is_wrong_once) = (Some(at(wrong)), true);
            }
            _ => {}
        }
        self.site.link.has(faults);
    }

    /// What happens meanwhile.
    async fn happens(&mut self, pushed: &Pushed, pulls: &mut Vec<(usize, Child)>) -> Result<(), String> {
        let (layer, bytes) = self.cell.at().unwrap_or(At::Large(0)).place();
        let layer = &pushed.image.layers[layer];
        if self.cell.at().is_some() {
            self.until("the registry has sent a part", || {
                (self.site.link.sent(layer) >= bytes).then_some(())
            })
            .await?;
            self.until("all nodes are in the flight", || self.all_fly(layer, pulls.len())).await?;
        }
        match self.cell {
            Cell::Node(who, how, _) => self.node_fails(who, how, layer, pulls).await?,
            Cell::FetcherAndMiddleKilled(_) => {
                self.node_fails(Who::Middle, How::AgentKilled, layer, pulls).await?;
                self.node_fails(Who::Fetcher, How::AgentKilled, layer, pulls).await?;
            }
            Cell::Late(_) => {
                pulls.append(&mut self.pulls(NODES - 1..NODES, pushed));
                self.until("the late node is in the flight", || self.all_fly(layer, NODES)).await?;
            }
            Cell::LateByAll => {
                self.until("a node has the image", || pulls[0].1.try_wait().unwrap().map(drop)).await?;
                pulls.append(&mut self.pulls(NODES - 1..NODES, pushed));
            }
            Cell::ServersKilled(_) => self.kill_servers(&[1, 2, 3]),
            Cell::ServerKilled(number, _) => self.kill_servers(&[number]),
            Cell::FetcherAndServerKilled(number, _) => {
                self.kill_servers(&[number]);
                self.node_fails(Who::Fetcher, How::AgentKilled, layer, pulls).await?;
            }
            Cell::Silent(time, _) | Cell::SilentAtFirst(time) => tokio::time::sleep(time).await,
            Cell::Gone(time, _) => {
                self.site.link.has(LinkFaults { is_gone: true, ..LinkFaults::default() });
                tokio::time::sleep(time).await;
            }
            Cell::Refused(_) | Cell::WrongByte(_) | Cell::WrongByteOnce(_) => return Ok(()),
            _ => {}
        }
        self.site.link.has(LinkFaults::default());
        Ok(())
    }

    /// Whether all of the first nodes, `count` of them, fetch or receive a blob.
    fn all_fly(&self, blob: &Digest, count: usize) -> Option<()> {
        let fetcher = self.site.fetcher(blob)?;
        let all = (0..count.min(NODES)).all(|node| node == fetcher || self.site.source(node, blob).is_some());
        all.then_some(())
    }

    async fn node_fails(
        &mut self,
        who: Who,
        how: How,
        blob: &Digest,
        pulls: &mut [(usize, Child)],
    ) -> Result<(), String> {
        let victim = match who {
            Who::Fetcher => self.site.fetcher(blob),
            Who::Middle => {
                let sources: Vec<_> = (0..NODES).map(|node| self.site.source(node, blob)).collect();
                (0..NODES).find(|node| sources[*node].is_some() && sources.contains(&Some(*node)))
            }
        };
        let victim = victim.ok_or_else(|| format!("no node is {who:?}"))?;
        self.victims.push(victim);
        match how {
            How::AgentKilled => self.site.kill_agent(victim),
            How::WorkerKilled => self.site.signal_worker(victim, Signal::KILL),
            How::WorkerFrozen => self.site.signal_worker(victim, Signal::STOP),
            How::ContainerdKilled => self.site.nodes[victim].node.containerd.kill(),
            How::Cancelled => {
                let (_, pull) = pulls.iter_mut().find(|(node, _)| *node == victim).expect("each node pulls");
                pull.start_kill().unwrap();
            }
        }
        Ok(())
    }

    fn kill_servers(&self, numbers: &[usize]) {
        // So that they are not started again before the end of the cell.
        self.site.servers.up.signal(Signal::STOP);
        numbers.iter().for_each(|number| self.site.servers.signal(*number, Signal::KILL));
    }

    /// Checks what must hold at the end; returns how many copies have left the registry.
    async fn check(&mut self, ended: &[Ended], pushed: &Pushed) -> Result<f64, String> {
        self.judge(ended, self.cell.may_fail())?;
        let image = &pushed.image;
        let failed: Vec<usize> =
            ended.iter().filter(|ended| ended.problem.is_some()).map(|ended| ended.node).collect();
        let unsound = ended.iter().find_map(|ended| match ended.problem {
            None => self.site.content_problem(ended.node, image),
            Some(_) if matches!(self.cell, Cell::WrongByte(_) | Cell::WrongByteOnce(_)) => None,
            Some(_) => self.site.soundness_problem(ended.node, image),
        });
        unsound.map_or(Ok(()), Err)?;
        if let Some(giver) = self.cell.gives_nothing().then_some(NODES - 1)
            && let Some(node) = (0..NODES)
                .find(|node| image.layers.iter().any(|layer| self.site.source(*node, layer) == Some(giver)))
        {
            return Err(format!("node {node} received from node {giver}"));
        }
        self.again(&failed, pushed).await?;
        self.copies(pushed)
    }

    /// Pulls again to nodes whose first pull has failed.
    async fn again(&mut self, nodes: &[usize], pushed: &Pushed) -> Result<(), String> {
        self.site.link.has(LinkFaults::default());
        if let (Cell::Node(_, How::ContainerdKilled, _), [victim]) = (self.cell, self.victims.as_slice()) {
            self.site.nodes[*victim].node.containerd.start().await;
        }
        let begun = Instant::now();
        let pulls = nodes.iter().map(|node| (*node, self.site.pull(*node, "k8s.io", &pushed.reference)));
        let undisturbed = Duration::from_secs_f64(pushed.size as f64 / RATE as f64) + OVERHEAD;
        let again = ends(pulls.collect(), begun, undisturbed + LATER_MAX).await;
        let problem = self.judge(&again, MayFail::Nobody).err();
        let problem =
            problem.or_else(|| nodes.iter().find_map(|node| self.site.content_problem(*node, &pushed.image)));
        problem.map_or(Ok(()), |problem| Err(format!("when tried again: {problem}, {}", times(&again))))
    }

    fn judge(&self, ended: &[Ended], may_fail: MayFail) -> Result<(), String> {
        let failed = ended.iter().filter(|ended| ended.problem.is_some()).count();
        for Ended { node, problem, after } in ended {
            let may = match may_fail {
                MayFail::Nobody => false,
                MayFail::One => failed == 1,
                MayFail::Victim => self.victims.contains(node),
                MayFail::Anybody | MayFail::All => true,
            };
            match problem {
                None if may_fail == MayFail::All => {
                    return Err(format!("node {node} pulled what is refused"));
                }
                Some(problem) if !may || problem.starts_with("it did not end") => {
                    return Err(format!("node {node} after {after:.1?}: {problem}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How many copies of the layers have left the registry, if that is not too many.
    fn copies(&self, pushed: &Pushed) -> Result<f64, String> {
        let sent: u64 = pushed.image.layers.iter().map(|layer| self.site.link.sent(layer)).sum();
        let copies = sent as f64 / pushed.size as f64;
        match self.cell.copies_max() {
            Some(most) if copies > most * TOLERANCE => Err(format!("{copies:.2} copies left the registry")),
            _ => Ok(copies),
        }
    }

    /// Where each node has the large layer from, as far as it has said: `R` is the registry.
    fn chain(&self, pushed: &Pushed) -> String {
        let large = &pushed.image.layers[0];
        let links = (0..NODES).map(|node| {
            let fetches = self.site.log_lines(node, "containerd fetches a blob", large.as_str()).len();
            let source = self.site.source(node, large).map(|source| source.to_string()).unwrap_or_default();
            format!("{node}<{source}{}", "R".repeat(fetches))
        });
        links.collect::<Vec<_>>().join(" ")
    }

    fn stories(&self, pushed: &Pushed) -> String {
        pushed.image.layers.iter().map(|layer| self.site.story(layer)).collect::<Vec<_>>().join("\n")
    }

    /// Makes the site what it was.
    async fn heal(&mut self) {
        self.site.link.has(LinkFaults::default());
        self.site.link.runs_at(RATE);
        if matches!(
            self.cell,
            Cell::ServersKilled(_) | Cell::ServerKilled(..) | Cell::FetcherAndServerKilled(..)
        ) {
            self.site.servers.up.signal(Signal::CONT);
            self.site.servers.leader().await;
        }
        for victim in std::mem::take(&mut self.victims) {
            self.site.replace(victim).await;
        }
    }

    async fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T, String> {
        let end = Instant::now() + CHAIN_WITHIN;
        loop {
            if let Some(value) = condition() {
                return Ok(value);
            }
            if Instant::now() > end {
                return Err(format!("not within {CHAIN_WITHIN:?}: {what}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn times(ended: &[Ended]) -> String {
    let times: Vec<_> = ended
        .iter()
        .map(|ended| {
            format!("{:.1}{}", ended.after.as_secs_f32(), if ended.problem.is_some() { "!" } else { "" })
        })
        .collect();
    format!("[{}] s", times.join(" "))
}
