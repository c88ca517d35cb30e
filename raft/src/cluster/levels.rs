//! The level of the cluster: what its servers have agreed to write, and when that becomes more.
//!
//! Who can read what is asked of the members themselves (`whoami`), each second by the leader; nothing of it is
//! kept in the membership. A level begins a day after all of them can run at it, or when an operator asks for it.
//! Until then each can go back to the build that it had; from then on it cannot, and says so.
//!
//! - `plan`: when; pure.

mod plan;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::command::{Command, Reply};
use crate::format::{Level, Levels, Next, Range, Reads};
use crate::index::Index;
use crate::types::NodeId;

use super::contacts::Contacts;
use super::disks::Disks;
use super::leadership::Leadership;
use super::members::{Changes, MembersError, Phase, Progress, Refusal};
use super::proposals::Proposals;
use super::{Node, ProposeError};
use plan::{Count, Step};

pub use plan::LevelTimes;

/// For people, once a level above the first is active.
pub const NO_WAY_BACK: &str = "going back to a version that does not know it is not possible any more";

/// What an operator should know of the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelStatus {
    /// The level at which the cluster writes.
    pub active: Level,
    /// What this node's build can run at.
    pub reads: Range,
    /// What is on its way.
    pub next: Option<NextLevel>,
}

/// A level on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextLevel {
    /// The level that begins next.
    pub level: Level,
    /// Time until it begins, if all members go on to answer and to be able to run at it.
    pub begins_in: Duration,
}

/// What the leader has counted.
#[derive(Debug, Default)]
pub(super) struct Counting(Mutex<Count>);

impl Counting {
    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.0.lock().expect("nothing panics while it holds the count")
    }
}

impl Node {
    /// The level, as this node has applied it; the leader has counted the most.
    pub fn level_status(&self) -> LevelStatus {
        self.inner.leveling.status()
    }

    /// On the leader: activates the highest level that all members can run at, now. Refused where one of them
    /// cannot, or does not answer. To be called again until [`Phase::Done`].
    pub async fn activate(&self) -> Result<Progress, MembersError> {
        self.inner.leveling.activate_up_to(Reads::of_this_build().highest()).await
    }
}

/// Brings the cluster to the next level.
pub(super) struct Leveling {
    pub(super) contacts: Contacts,
    pub(super) leadership: Leadership,
    pub(super) index: Index,
    pub(super) disks: Arc<Disks>,
    pub(super) proposals: Proposals,
    pub(super) changes: Arc<Changes>,
    /// Time during which all members could run at the next level; counted on the leader only.
    pub(super) counting: Counting,
    pub(super) times: LevelTimes,
    pub(super) stop: CancellationToken,
}

impl Leveling {
    fn status(&self) -> LevelStatus {
        let Levels { active, next } = self.index.levels();
        let next = next.map(|next| {
            let counted = self.counting.count().total(next);
            NextLevel { level: next.level, begins_in: self.times.activate_after.saturating_sub(counted) }
        });
        LevelStatus { active, reads: Reads::of_this_build().level, next }
    }

    async fn activate_up_to(self: &Arc<Self>, most: Level) -> Result<Progress, MembersError> {
        let leveling = self.clone();
        self.changes.step(async move { leveling.agree_up_to(most).await }).await
    }

    async fn agree_up_to(&self, most: Level) -> Result<Progress, MembersError> {
        // Until the write has ended nobody is admitted who could not read it.
        let Ok(_only) = self.changes.changing.try_acquire() else {
            let message = "a change of the membership is under way".to_owned();
            return Ok(Progress::of(Phase::Step, None, message));
        };
        self.proposals.catch_up().await?;
        let active = self.index.levels().active;
        let others = self.ask_readable().await;
        if let Some((node_id, address, _)) = others.iter().find(|(_, _, reads)| reads.is_none()) {
            return Err(Refusal::Unreadable { node_id: *node_id, address: address.clone() }.into());
        }
        let reads: Vec<Option<Reads>> = others.iter().map(|(_, _, reads)| *reads).collect();
        let Some(level) = plan::common(active, most, &reads) else {
            return self.nothing_to_activate(active, &others);
        };
        let proposed = self.proposals.propose_to_the_end(Command::Activate { level }).await?;
        if proposed.reply != (Reply::Applied { changed: 0 }) {
            return Err(ProposeError::OutcomeUnknown.into());
        }
        tracing::info!(%level, "the level begins: servers cannot go back to a build that does not know it");
        Ok(Progress::of(Phase::Done, None, format!("{level} is active: {NO_WAY_BACK}")))
    }

    fn nothing_to_activate(
        &self,
        active: Level,
        others: &[(NodeId, String, Option<Reads>)],
    ) -> Result<Progress, MembersError> {
        let highest = |reads: &Option<Reads>| reads.as_ref().map_or(active, Reads::highest);
        let most = others.iter().map(|(_, _, reads)| highest(reads)).max();
        let most = most.max(Some(Reads::of_this_build().highest())).unwrap_or(active);
        if most <= active {
            let message = format!("the cluster runs at {active}, and no member knows a higher one");
            return Ok(Progress::of(Phase::Done, None, message));
        }
        let address = self.contacts.identity.raft_address().unwrap_or_else(|| "this server".to_owned());
        let own = (self.contacts.identity.node_id, address, Some(Reads::of_this_build()));
        let unable = others.iter().chain([&own]).filter(|(_, _, reads)| highest(reads) <= active);
        let unable = unable.map(|(id, address, reads)| {
            let reads = reads.map_or_else(String::new, |reads| reads.level.to_string());
            format!("server {id:016x} ({address}) reads levels {reads}")
        });
        Err(Refusal::NotAll { active, unable: unable.collect() }.into())
    }

    /// While this node leads: counts how long all members can run at the next level, and activates it when
    /// that is long enough. Until the node stops.
    pub(super) async fn run(self: &Arc<Self>) {
        let stop = &self.stop;
        let look_interval = self.times.look_interval;
        let mut ticks = interval(look_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = None;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if !self.leadership.is_own() {
                *self.counting.count() = Count::default();
                looked = None;
                continue;
            }
            let now = Instant::now();
            let passed =
                looked.map_or(Duration::ZERO, |before| now.duration_since(before)).min(look_interval * 2);
            looked = Some(now);
            stop.run_until_cancelled(self.look_at_levels(passed)).await;
        }
    }

    async fn look_at_levels(self: &Arc<Self>, passed: Duration) {
        let levels = self.index.levels();
        let members = self.last_readable();
        let step = plan::look(&mut self.counting.count(), &self.times, levels, &members, passed);
        let said = match step {
            Step::Wait => Ok(()),
            Step::Note(next) => self.note(levels, next).await,
            Step::GiveUp => {
                tracing::warn!("a member cannot run at the next level any more: it is not activated");
                self.note(levels, Next { level: levels.active, seconds: 0 }).await
            }
            Step::Activate(level) => match self.activate_up_to(level).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    tracing::warn!(%error, %level, "could not activate the level yet");
                    Ok(())
                }
            },
        };
        if let Err(error) = said {
            tracing::debug!(%error, "could not note for how long all members can run at the next level");
        }
    }

    async fn note(&self, levels: Levels, next: Next) -> Result<(), ProposeError> {
        if levels.next.is_none_or(|before| before.level != next.level) && next.level > levels.active {
            let (level, hours) = (next.level, self.times.activate_after.as_secs() / 3600);
            tracing::info!(%level, hours, "all members can run at the next level: it begins after these hours");
        }
        self.proposals.propose(Command::Readable { level: next.level, seconds: next.seconds }).await.map(drop)
    }

    /// What each of the other members answers now; `None`: it does not.
    async fn ask_readable(&self) -> Vec<(NodeId, String, Option<Reads>)> {
        let others = self.contacts.other_members();
        join_all(others.into_iter().map(|(id, member)| async move {
            let reads = self.contacts.ask(id, &member).await.map(|whoami| whoami.reads);
            (id, member.raft_address, reads)
        }))
        .await
    }

    /// What each of them answered a moment ago.
    fn last_readable(&self) -> Vec<Option<Reads>> {
        self.contacts.other_members().into_iter().map(|(id, _)| self.disks.reads(id)).collect()
    }
}
