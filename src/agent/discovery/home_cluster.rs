//! Decides which cluster this agent belongs to: that of its servers. A list can lead to two clusters, when a
//! server has lost its disk, or an address leads to a foreign server. If each agent wrote to whichever it
//! meets, parts of a site would no longer find each other. An agent therefore stays with the cluster that it
//! knows, and reports that there is another one.
//!
//! A cluster can also be replaced for good, when all disks were lost, or an operator has started again with
//! what was left. Then no server belongs to the old cluster any more. An agent changes to the new one when
//! all its servers name it, and after a longer time when some servers are silent or unseen. It keeps nothing
//! on disk: after a restart it asks all servers, and begins with the cluster that most of them name. While
//! silent servers could outvote that choice, it keeps asking.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::agent::notices::{Notices, Topic};
use crate::api::client::{Client, Sighting};
use crate::limits::{
    CLUSTER_FOLLOWED_AFTER, CLUSTER_FOLLOWED_IN_DOUBT_AFTER, CLUSTER_LOOK_PAUSE,
    CLUSTER_LOOK_PAUSE_AMONG_OWN, CLUSTER_LOOK_PAUSE_CALM, CLUSTER_LOOK_TIMEOUT,
};
use crate::task::Stop;

mod ballot;

use ballot::Ballot;

/// The cluster of this agent, with the task that looks after it.
pub(crate) struct HomeCluster {
    client: Client,
    notices: Notices,
    past: Past,
    pauses: Pauses,
}

/// What is kept between two looks.
#[derive(Debug, Default)]
struct Past {
    /// Another cluster that most servers name, while none names this agent's; and since when.
    other: Option<(String, Instant)>,
    /// What servers have named since this agent chose its cluster; `None` once the choice is final.
    ballot: Option<Ballot>,
    /// Number of servers of this agent's cluster; 0 if it is not known.
    own_servers: usize,
}

/// Pauses between two looks, each with its shortest and its longest value.
struct Pauses {
    soon: (Duration, Duration),
    later: (Duration, Duration),
    calm: (Duration, Duration),
}

impl Default for Pauses {
    fn default() -> Self {
        Self { soon: CLUSTER_LOOK_PAUSE, later: CLUSTER_LOOK_PAUSE_AMONG_OWN, calm: CLUSTER_LOOK_PAUSE_CALM }
    }
}

/// The result of one look at all servers.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// No server names another cluster.
    Calm,
    /// No server names another cluster, but those that have named none could outvote this agent's choice.
    Provisional,
    /// The agent keeps its cluster, and an operator should read `text`.
    Stay { text: String, own_answers: bool },
    /// The agent belongs to another cluster from now on.
    Follow(String),
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    AtOnce,
    Soon,
    Later,
    /// There is no reason to look, unless a call meets another cluster.
    Calm,
}

impl HomeCluster {
    pub(crate) fn new(client: Client, notices: Notices) -> Self {
        Self { client, notices, past: Past::default(), pauses: Pauses::default() }
    }

    /// Looks until `stop`. Calls `begin_anew` with the reason when the agent changes to another cluster.
    pub(crate) async fn run(
        mut self,
        begin_anew: impl Fn(&str) + Send + Sync,
        stop: Stop,
    ) -> Result<(), Infallible> {
        let looking = async {
            loop {
                let next = self.look(&begin_anew).await;
                self.pause(next).await;
            }
        };
        stop.run_until_cancelled(looking).await.unwrap_or(Ok(()))
    }

    /// Waits before the next look. The pause may be long while servers of this agent's cluster answer, unless
    /// a call meets another cluster: then they have just stopped.
    async fn pause(&self, next: Next) {
        let Pauses { soon, later, calm } = self.pauses;
        match next {
            Next::AtOnce => {}
            Next::Soon => tokio::time::sleep(within(soon)).await,
            Next::Later => {
                tokio::time::sleep(within(soon)).await;
                self.unless_strange(within(later)).await;
            }
            Next::Calm => self.unless_strange(within(calm)).await,
        }
    }

    async fn unless_strange(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.client.strange() => {}
        }
    }

    async fn look(&mut self, begin_anew: &(impl Fn(&str) + Sync)) -> Next {
        let own = self.client.cluster();
        let seen = self.client.clusters(CLUSTER_LOOK_TIMEOUT).await;
        match self.past.judge(own.as_deref(), &seen, Instant::now()) {
            decision @ (Decision::Calm | Decision::Provisional) => {
                self.notices.clear(Topic::Cluster, "");
                if decision == Decision::Calm { Next::Calm } else { Next::Later }
            }
            Decision::Stay { text, own_answers } => {
                self.notices.set(Topic::Cluster, "", text);
                if own_answers { Next::Later } else { Next::Soon }
            }
            Decision::Follow(cluster) => {
                self.client.belong_to(Some(&cluster));
                match own {
                    None => tracing::info!(cluster, "belongs to the cluster of its discovery servers"),
                    Some(before) => {
                        tracing::warn!(before, cluster, "follows its discovery servers to another cluster");
                        begin_anew("the discovery servers belong to another cluster");
                    }
                }
                // The next look reports servers of a third cluster.
                Next::AtOnce
            }
        }
    }
}

fn within((least, most): (Duration, Duration)) -> Duration {
    rand::rng().random_range(least..=most)
}

impl Past {
    /// Decides by what all servers name.
    fn judge(&mut self, own: Option<&str>, seen: &[(String, Sighting)], now: Instant) -> Decision {
        let look = Ballot::of(seen);
        let Some(own) = own else {
            self.other = None;
            return match look.most().map(str::to_owned) {
                Some(cluster) => self.follow(cluster, look),
                None => Decision::Calm,
            };
        };
        if let Some(mut ballot) = self.ballot.take() {
            ballot.add(seen);
            if let Some(cluster) = ballot.outvotes(own).map(str::to_owned) {
                return self.follow(cluster, ballot);
            }
            self.ballot = Some(ballot).filter(|ballot| !ballot.is_decided_for(own));
        }
        self.own_servers = servers_of(own, seen).unwrap_or(self.own_servers);
        let Some(most) = look.most_besides(own) else {
            self.other = None;
            return if self.ballot.is_some() { Decision::Provisional } else { Decision::Calm };
        };
        let mut others = look.by_cluster();
        let own_answers = others.remove(own).is_some();
        let text = |(cluster, servers): (&&str, &BTreeSet<&str>)| {
            let servers: Vec<&str> = servers.iter().copied().collect();
            format!("{} ({cluster})", servers.join(", "))
        };
        let strangers = others.iter().map(text).collect::<Vec<_>>().join(", ");
        if own_answers {
            self.other = None;
            let text = format!(
                "discovery servers belong to another cluster: {strangers}; this agent stays with cluster {own}. A \
                 server that has lost its disk comes back by piccolo members replace. If the other cluster is the \
                 right one, stop the servers of cluster {own}"
            );
            return Decision::Stay { text, own_answers };
        }
        let since = match &self.other {
            Some((cluster, since)) if cluster == most => *since,
            _ => now,
        };
        let is_silent = seen.iter().any(|(_, sighting)| *sighting == Sighting::Silent);
        let after = match is_silent || others.len() > 1 || self.may_be_unseen(look.servers()) {
            true => CLUSTER_FOLLOWED_IN_DOUBT_AFTER,
            false => CLUSTER_FOLLOWED_AFTER,
        };
        if now.duration_since(since) >= after {
            return self.follow(most.to_owned(), Ballot::of(seen));
        }
        self.other = Some((most.to_owned(), since));
        let text = format!(
            "no discovery server of this agent's cluster {own} answers, others do: {strangers}. This agent follows \
             when all its servers are of one other cluster, after {} minutes, or when it is restarted",
            CLUSTER_FOLLOWED_IN_DOUBT_AFTER.as_secs() / 60
        );
        Decision::Stay { text, own_answers }
    }

    /// Whether the cluster may have servers that no look shows: a load balancer leads only to servers that
    /// are ready.
    fn may_be_unseen(&self, servers: usize) -> bool {
        match self.own_servers {
            0 => servers == 1,
            own => own > servers,
        }
    }

    fn follow(&mut self, cluster: String, ballot: Ballot) -> Decision {
        *self = Self { ballot: Some(ballot), ..Self::default() };
        Decision::Follow(cluster)
    }
}

/// Number of servers of a cluster, as those of its servers report it that know it.
fn servers_of(cluster: &str, seen: &[(String, Sighting)]) -> Option<usize> {
    let says = seen.iter().filter_map(|(_, sighting)| match sighting {
        Sighting::Of { cluster: named, servers } if named == cluster => Some(*servers),
        _ => None,
    });
    says.max().filter(|servers| *servers > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use tokio::task::JoinSet;

    use super::*;
    use crate::agent::testing::SOON;
    use crate::api::header;

    fn of(cluster: &str) -> Sighting {
        of_a_cluster_of(0, cluster)
    }

    fn of_a_cluster_of(servers: usize, cluster: &str) -> Sighting {
        Sighting::Of { cluster: cluster.to_owned(), servers }
    }

    /// An agent that looks again and again.
    #[derive(Default)]
    struct Agent {
        own: Option<&'static str>,
        past: Past,
    }

    impl Agent {
        fn of(own: &'static str) -> Self {
            Self { own: Some(own), past: Past::default() }
        }

        /// The decision about servers at three addresses.
        fn sees(&mut self, seen: [Sighting; 3], now: Instant) -> Decision {
            let seen: Vec<_> = ["a", "b", "c"].map(str::to_owned).into_iter().zip(seen).collect();
            self.past.judge(self.own, &seen, now)
        }

        /// The decision about servers at one address.
        fn sees_behind_one(&mut self, seen: [Sighting; 4], now: Instant) -> Decision {
            let seen = seen.map(|sighting| ("a".to_owned(), sighting));
            self.past.judge(self.own, &seen, now)
        }
    }

    #[test]
    fn an_agent_begins_with_the_cluster_that_most_servers_name() {
        let now = Instant::now();
        let mut agent = Agent::default();
        assert_eq!(agent.sees([of("y"), of("x"), of("x")], now), Decision::Follow("x".to_owned()));
        assert_eq!(agent.sees([of("y"), Sighting::Silent, of("x")], now), Decision::Follow("x".to_owned()));
        assert_eq!(agent.sees([Sighting::Silent, Sighting::Unnamed, Sighting::Silent], now), Decision::Calm);
    }

    #[test]
    fn an_agent_stays_as_long_as_a_server_of_its_cluster_answers() {
        let begin = Instant::now();
        let mut agent = Agent::of("x");
        assert_eq!(agent.sees([of("x"), of("x"), Sighting::Silent], begin), Decision::Calm);
        for hours in 0..48 {
            let decision =
                agent.sees([of("y"), of("y"), of("x")], begin + Duration::from_secs(hours * 3_600));
            let Decision::Stay { text, own_answers: true } = decision else { panic!("{decision:?}") };
            assert!(text.contains("a, b (y); this agent stays with cluster x"), "{text}");
            assert!(
                text.contains("members replace") && text.contains("stop the servers of cluster x"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_agent_follows_when_all_servers_have_said_the_same_for_a_while() {
        let begin = Instant::now();
        let mut agent = Agent::of("x");
        let new = || [of("y"), of("y"), Sighting::Unnamed];
        assert!(matches!(agent.sees(new(), begin), Decision::Stay { own_answers: false, .. }));
        let almost = begin + CLUSTER_FOLLOWED_AFTER - Duration::from_millis(1);
        assert!(matches!(agent.sees(new(), almost), Decision::Stay { .. }));
        // One server of its own cluster is back for a moment.
        assert!(matches!(agent.sees([of("y"), of("x"), of("y")], almost), Decision::Stay { .. }));
        assert!(matches!(agent.sees(new(), almost), Decision::Stay { .. }), "it counts anew");
        assert!(matches!(agent.sees([of("z"), of("z"), of("z")], almost), Decision::Stay { .. }));
        let decision = agent.sees([of("z"), of("z"), of("z")], almost + CLUSTER_FOLLOWED_AFTER);
        assert_eq!(decision, Decision::Follow("z".to_owned()));
    }

    #[test]
    fn silent_servers_may_be_the_cluster_that_is_cut_off() {
        let begin = Instant::now();
        let mut agent = Agent::of("x");
        let cut = || [of("y"), Sighting::Silent, Sighting::Silent];
        let later = begin + CLUSTER_FOLLOWED_IN_DOUBT_AFTER;
        assert!(matches!(agent.sees(cut(), begin), Decision::Stay { .. }));
        let almost = agent.sees(cut(), later - Duration::from_secs(1));
        let Decision::Stay { text, own_answers: false } = almost else { panic!("{almost:?}") };
        assert!(text.contains("no discovery server of this agent's cluster x answers"), "{text}");
        assert_eq!(agent.sees(cut(), later), Decision::Follow("y".to_owned()));
    }

    #[test]
    fn between_two_other_clusters_an_agent_takes_its_time() {
        let begin = Instant::now();
        let mut agent = Agent::of("x");
        let both = || [of("y"), of("z"), of("z")];
        assert!(matches!(agent.sees(both(), begin), Decision::Stay { .. }));
        assert!(matches!(agent.sees(both(), begin + CLUSTER_FOLLOWED_AFTER), Decision::Stay { .. }));
        let late = begin + CLUSTER_FOLLOWED_IN_DOUBT_AFTER;
        assert_eq!(agent.sees(both(), late), Decision::Follow("z".to_owned()));
    }

    #[test]
    fn at_one_address_the_majority_of_looks_counts() {
        let now = Instant::now();
        let x_of_four = || [of("x"), of("b"), of("x"), of("x")];
        assert_eq!(Agent::default().sees_behind_one(x_of_four(), now), Decision::Follow("x".to_owned()));
        let mut agent = Agent::of("own");
        assert!(matches!(agent.sees_behind_one(x_of_four(), now), Decision::Stay { .. }));
        let late = now + CLUSTER_FOLLOWED_IN_DOUBT_AFTER;
        assert_eq!(agent.sees_behind_one(x_of_four(), late), Decision::Follow("x".to_owned()));
    }

    /// Regression: servers that restart are not in the rotation of a load balancer, and agents followed the
    /// one that was left.
    #[test]
    fn behind_one_address_there_may_be_servers_that_no_look_shows() {
        let begin = Instant::now();
        let (soon, late) = (begin + CLUSTER_FOLLOWED_AFTER, begin + CLUSTER_FOLLOWED_IN_DOUBT_AFTER);
        let others = || std::array::from_fn(|_| of_a_cluster_of(1, "y"));
        // The number of servers of its cluster is not known, or there are several.
        for own in [of("x"), of_a_cluster_of(3, "x")] {
            let mut agent = Agent::of("x");
            assert_eq!(agent.sees_behind_one(std::array::from_fn(|_| own.clone()), begin), Decision::Calm);
            assert!(matches!(agent.sees_behind_one(others(), begin), Decision::Stay { .. }));
            assert!(matches!(agent.sees_behind_one(others(), soon), Decision::Stay { .. }), "{own:?}");
            assert_eq!(agent.sees_behind_one(others(), late), Decision::Follow("y".to_owned()));
        }
        // The cluster had one server.
        let mut agent = Agent::of("x");
        let own = std::array::from_fn(|_| of_a_cluster_of(1, "x"));
        assert_eq!(agent.sees_behind_one(own, begin), Decision::Calm);
        assert!(matches!(agent.sees_behind_one(others(), begin), Decision::Stay { .. }));
        assert_eq!(agent.sees_behind_one(others(), soon), Decision::Follow("y".to_owned()));
    }

    /// Regression: calls begin with the server that answered last, so that no server named the right cluster
    /// any more.
    #[test]
    fn a_choice_is_provisional_until_those_who_were_silent_cannot_outvote_it() {
        const SILENT: Sighting = Sighting::Silent;
        let now = Instant::now();
        for later in [[of("y"), of("x"), of("x")], [SILENT, of("x"), of("x")]] {
            let mut agent = Agent::default();
            assert_eq!(agent.sees([of("y"), SILENT, SILENT], now), Decision::Follow("y".to_owned()));
            agent.own = Some("y");
            assert_eq!(agent.sees([of("y"), SILENT, Sighting::Unnamed], now), Decision::Provisional);
            assert!(matches!(agent.sees([of("y"), of("x"), SILENT], now), Decision::Stay { .. }), "a tie");
            assert_eq!(agent.sees(later, now), Decision::Follow("x".to_owned()));
            agent.own = Some("x");
            assert_eq!(agent.sees([SILENT, of("x"), of("x")], now), Decision::Calm, "all have named one");
        }
        // The earlier answer of a server still counts while it is silent.
        let mut agent = Agent::default();
        assert_eq!(agent.sees([of("x"), of("y"), SILENT], now), Decision::Follow("x".to_owned()));
        agent.own = Some("x");
        assert!(matches!(agent.sees([SILENT, of("y"), SILENT], now), Decision::Stay { .. }));
        assert_eq!(agent.sees([of("x"), SILENT, of("x")], now), Decision::Calm);
        let mut agent = Agent::default();
        assert_eq!(agent.sees([of("x"), of("x"), SILENT], now), Decision::Follow("x".to_owned()));
        agent.own = Some("x");
        assert_eq!(
            agent.sees([of("x"), of("x"), SILENT], now),
            Decision::Calm,
            "two of three are a majority"
        );
    }

    /// A server of a cluster, which is loading until `is_up`.
    async fn server(cluster: &'static str, is_up: &Arc<AtomicBool>, tasks: &mut JoinSet<()>) -> String {
        let is_up = Arc::clone(is_up);
        let routes = Router::new().fallback(async move || match is_up.load(Ordering::SeqCst) {
            true => ([(header::CLUSTER, cluster)], "{}").into_response(),
            false => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        url
    }

    async fn belongs_to(client: &Client, cluster: &str) {
        let belongs = async {
            while client.cluster().as_deref() != Some(cluster) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, belongs).await.unwrap_or_else(|_| panic!("not of {cluster}"));
    }

    #[tokio::test]
    async fn an_agent_that_starts_while_its_servers_load_comes_to_their_cluster() {
        let (up, later) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let servers = vec![
            server("y", &up, &mut tasks).await,
            server("x", &later, &mut tasks).await,
            server("x", &later, &mut tasks).await,
        ];
        let client = Client::new(servers).unwrap();
        let notices = Notices::default();
        let moment = (Duration::from_millis(5), Duration::from_millis(10));
        let mut home_cluster = HomeCluster::new(client.clone(), notices.clone());
        home_cluster.pauses = Pauses { soon: moment, later: moment, ..Pauses::default() };
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let stop = Stop::new();
        tasks.spawn({
            let stop = stop.clone();
            let begin_anew = move |_: &str| _ = count.fetch_add(1, Ordering::SeqCst);
            async move { home_cluster.run(begin_anew, stop).await.unwrap() }
        });
        belongs_to(&client, "y").await;
        later.store(true, Ordering::SeqCst);
        belongs_to(&client, "x").await;
        let said = async {
            while !notices.texts().iter().any(|text| text.contains("(y); this agent stays with cluster x")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, said).await.expect("it says that there is another one");
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        stop.cancel();
    }
}
