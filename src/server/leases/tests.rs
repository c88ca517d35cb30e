//! Each row of the state table of leases.

use super::*;

const LEASE_DEFAULT: Duration = Duration::from_secs(1_860);
const FORGET_AFTER: Duration = Duration::from_secs(86_400);
const NATIVE: u32 = 90;

fn holder(n: u8) -> Holder {
    Holder { group: "default".into(), address: ([10, 0, 0, n], 7781).into() }
}

fn pair(epoch: u64, seq: u64) -> Option<Pair> {
    Some(Pair { epoch, seq })
}

fn known() -> KnownHost {
    KnownHost {
        zone: "a".into(),
        ttl_seconds: NATIVE,
        pair: pair(5, 7),
        fingerprint: Fingerprint(42),
        hidden: false,
    }
}

fn host(holder: Holder, ttl_seconds: u32, hidden_unix_ms: Option<u64>) -> HostLease {
    HostLease { holder, ttl_seconds, hidden_unix_ms, epoch_unix_ms: None }
}

/// The heartbeat of a native agent that agrees with [`known`].
fn heartbeat() -> Heartbeat {
    Heartbeat {
        zone: Some("a".into()),
        ttl_seconds: Some(NATIVE),
        pair: pair(5, 7),
        fingerprint: Some(Fingerprint(42)),
    }
}

/// The heartbeat of a Go `pi`.
fn go() -> Heartbeat {
    Heartbeat::default()
}

fn unhide() -> Command {
    Command::Unhide { holder: holder(1) }
}

fn set_host(zone: &str, ttl_seconds: u32) -> Command {
    Command::SetHost { holder: holder(1), zone: zone.into(), ttl_seconds }
}

#[test]
fn every_row_of_a_heartbeat() {
    let hidden = || KnownHost { hidden: true, ..known() };
    let go_known = || KnownHost { ttl_seconds: 0, pair: None, ..known() };
    let other = Some(Fingerprint(43));
    type Row = (&'static str, Option<KnownHost>, Heartbeat, bool, Vec<Command>);
    let rows: Vec<Row> = vec![
        ("nothing changed: nothing is written", Some(known()), heartbeat(), false, vec![]),
        ("unknown host", None, heartbeat(), true, vec![]),
        ("unknown host of the Go pi", None, go(), true, vec![]),
        ("lost a write", Some(known()), Heartbeat { pair: pair(5, 8), ..heartbeat() }, true, vec![]),
        ("lost an epoch", Some(known()), Heartbeat { pair: pair(6, 0), ..heartbeat() }, true, vec![]),
        ("lost every pair", Some(KnownHost { pair: None, ..known() }), heartbeat(), true, vec![]),
        (
            "an answer is under way",
            Some(known()),
            Heartbeat { pair: pair(5, 6), ..heartbeat() },
            false,
            vec![],
        ),
        (
            "an answer is under way, so the fingerprint differs",
            Some(known()),
            Heartbeat { pair: pair(5, 6), fingerprint: other, ..heartbeat() },
            false,
            vec![],
        ),
        ("drifted", Some(known()), Heartbeat { fingerprint: other, ..heartbeat() }, true, vec![]),
        ("Go pi, nothing changed", Some(go_known()), go(), false, vec![]),
        ("hidden, same fingerprint", Some(hidden()), heartbeat(), false, vec![unhide()]),
        (
            "hidden, no fingerprint",
            Some(KnownHost { hidden: true, ..go_known() }),
            go(),
            false,
            vec![unhide()],
        ),
        ("hidden, drifted", Some(hidden()), Heartbeat { fingerprint: other, ..heartbeat() }, true, vec![]),
        (
            "hidden, drifted, an answer is under way",
            Some(hidden()),
            Heartbeat { pair: pair(5, 6), fingerprint: other, ..heartbeat() },
            true,
            vec![],
        ),
        (
            "new zone",
            Some(known()),
            Heartbeat { zone: Some("b".into()), ..heartbeat() },
            false,
            vec![set_host("b", 90)],
        ),
        ("no zone given", Some(known()), Heartbeat { zone: None, ..heartbeat() }, false, vec![]),
        (
            "new ttl",
            Some(known()),
            Heartbeat { ttl_seconds: Some(30), ..heartbeat() },
            false,
            vec![set_host("a", 30)],
        ),
        ("a Go pi took over", Some(known()), go(), false, vec![set_host("a", 0)]),
        (
            "hidden and moved",
            Some(hidden()),
            Heartbeat { zone: Some("b".into()), ..heartbeat() },
            false,
            vec![set_host("b", 90), unhide()],
        ),
    ];
    for (row, known, heartbeat, resync, commands) in rows {
        assert_eq!(
            on_heartbeat(&holder(1), known.as_ref(), &heartbeat),
            HeartbeatOutcome { resync, commands },
            "{row}"
        );
    }
}

/// A script: time passes in sweeps of half a second, as the leader's task does them.
struct Scene {
    leases: Leases,
    now: Duration,
    unix_ms: u64,
}

const STEP: Duration = Duration::from_millis(500);
/// Wall time at the start of each scene.
const START_MS: u64 = 1_800_000_000_000;

impl Scene {
    fn new(hosts: &[HostLease]) -> Self {
        let (now, unix_ms) = (Duration::from_secs(1_000), START_MS);
        let mut leases = Leases::new(LEASE_DEFAULT, FORGET_AFTER);
        leases.begin_term(hosts.to_vec(), now, unix_ms);
        Self { leases, now, unix_ms }
    }

    fn begin_term(&mut self, hosts: &[HostLease]) {
        self.leases.begin_term(hosts.to_vec(), self.now, self.unix_ms);
    }

    fn skip(&mut self, time: Duration) {
        self.now += time;
        self.unix_ms = self.unix_ms.saturating_add(time.as_millis() as u64);
    }

    fn sweep(&mut self) -> Vec<Due> {
        self.leases.sweep(self.now)
    }

    /// Sweeps for so many seconds and returns what was due.
    fn pass(&mut self, seconds: u64) -> Vec<Due> {
        (0..seconds * 2)
            .flat_map(|_| {
                self.skip(STEP);
                self.sweep()
            })
            .collect()
    }

    fn follow(&mut self, host: HostLease) -> Vec<Holder> {
        self.leases.follow([host], self.now)
    }

    fn renew(&mut self, holder: &Holder, ttl: u32) {
        self.leases.renew(holder, ttl, self.now);
    }
}

#[test]
fn a_host_is_hidden_when_its_lease_has_ended_and_not_before() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None), host(holder(2), 0, None)]);
    assert_eq!(scene.pass(89), []);
    assert_eq!(scene.pass(1), [Due::Hide(holder(1))]);
    assert_eq!(scene.pass(1_860 - 91), []);
    assert_eq!(scene.pass(1), [Due::Hide(holder(2))], "the default lease");
}

/// What a sweep has found waits for those before it; a heartbeat that comes meanwhile counts.
#[test]
fn a_host_whose_lease_is_renewed_before_it_is_hidden_stays() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    assert!(!scene.leases.is_leaving(&holder(1)));
    assert_eq!(scene.pass(90), [Due::Hide(holder(1))]);
    assert!(scene.leases.is_leaving(&holder(1)));
    scene.renew(&holder(1), NATIVE);
    assert!(!scene.leases.is_leaving(&holder(1)));
}

#[test]
fn renewals_keep_a_host_whatever_the_length() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    for _ in 0..10 {
        assert_eq!(scene.pass(60), []);
        scene.renew(&holder(1), NATIVE);
    }
    scene.renew(&holder(1), 3);
    assert_eq!(scene.pass(3), [Due::Hide(holder(1))], "a shorter lease counts at once");
}

#[test]
fn a_new_term_gives_every_host_a_full_lease() {
    let hosts = [host(holder(1), NATIVE, None)];
    let mut scene = Scene::new(&hosts);
    scene.pass(80);
    scene.leases.begin_term(hosts.to_vec(), scene.now, scene.unix_ms);
    assert_eq!(scene.pass(89), []);
    assert_eq!(scene.pass(1), [Due::Hide(holder(1))]);
}

#[test]
fn a_sweep_that_is_late_extends_all_leases_by_that() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    scene.pass(80);
    scene.skip(Duration::from_secs(600));
    assert_eq!(scene.sweep(), []);
    assert_eq!(scene.pass(9), []);
    assert_eq!(scene.pass(1), [Due::Hide(holder(1))]);
}

#[test]
fn time_without_a_quorum_does_not_count() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    scene.pass(80);
    for _ in 0..600 {
        scene.skip(STEP);
        scene.leases.pause(scene.now);
    }
    assert_eq!(scene.pass(9), []);
    assert_eq!(scene.pass(1), [Due::Hide(holder(1))]);
}

#[test]
fn a_hidden_host_is_forgotten_after_its_time_and_a_new_leader_goes_on_counting() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    assert_eq!(scene.pass(90).len(), 1);
    let since = scene.unix_ms;
    let hidden = host(holder(1), NATIVE, Some(since));
    assert_eq!(scene.follow(hidden.clone()), []);
    assert_eq!(scene.pass(86_400 - 7_200), []);
    scene.begin_term(&[hidden]);
    assert_eq!(scene.pass(7_199), []);
    assert_eq!(scene.pass(1), [Due::Forget(holder(1), since)]);
    assert_eq!(scene.pass(3_600), []);
}

#[test]
fn no_jump_of_the_wall_clock_ends_a_lease_or_forgets_anything() {
    for jump_seconds in [-10_000_000_i64, -86_400 * 3, -3_600, 3_600, 86_400 * 3, 10_000_000_000] {
        let mut scene = Scene::new(&[host(holder(1), NATIVE, None), host(holder(2), NATIVE, Some(START_MS))]);
        scene.unix_ms = scene.unix_ms.saturating_add_signed(jump_seconds * 1_000);
        assert_eq!(scene.pass(89), [], "{jump_seconds}");
        assert_eq!(scene.pass(1), [Due::Hide(holder(1))], "{jump_seconds}");
        assert_eq!(scene.pass(86_400 - 91), [], "{jump_seconds}");
        assert_eq!(scene.pass(1), [Due::Forget(holder(2), START_MS)], "{jump_seconds}");
    }
}

#[test]
fn a_leader_that_begins_with_a_wrong_clock_waits_an_hour_before_it_forgets_and_a_day_at_most() {
    let hidden = host(holder(1), NATIVE, Some(START_MS));
    for (unix_ms, seconds) in [(u64::MAX, 3_600), (0, 86_400)] {
        let mut scene = Scene::new(&[]);
        scene.unix_ms = unix_ms;
        scene.begin_term(std::slice::from_ref(&hidden));
        scene.unix_ms = START_MS;
        assert_eq!(scene.pass(seconds - 1), [], "{unix_ms}");
        assert_eq!(scene.pass(1), [Due::Forget(holder(1), START_MS)], "{unix_ms}");
    }
}

/// A leader without a battery for its clock says 1970 when it hides a host: the next leader believed that the
/// host had been hidden for decades, and forgot it after an hour.
#[test]
fn a_host_that_was_hidden_by_a_clock_behind_its_own_is_kept_for_the_whole_time() {
    let day_ms = 86_400_000;
    for (since, seconds) in [
        (5 * day_ms, 86_400),
        (START_MS - day_ms, 86_400),
        // A small difference of the clocks counts as none.
        (START_MS - 120_000, 86_400 - 120),
    ] {
        let hidden = host(holder(1), NATIVE, Some(since));
        let mut scene = Scene::new(&[HostLease { epoch_unix_ms: Some(START_MS - 60_000), ..hidden }]);
        assert_eq!(scene.pass(seconds - 1), [], "{since}");
        assert_eq!(scene.pass(1), [Due::Forget(holder(1), since)], "{since}");
    }
    let without_pairs = host(holder(1), NATIVE, Some(5 * day_ms));
    let mut scene = Scene::new(&[without_pairs]);
    assert_eq!(scene.pass(3_600), [Due::Forget(holder(1), 5 * day_ms)], "nothing tells which is right");
}

#[test]
fn a_hidden_host_that_is_back_is_not_forgotten() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, Some(START_MS - 86_400_000))]);
    assert_eq!(scene.pass(3_590), []);
    scene.renew(&holder(1), NATIVE);
    assert_eq!(scene.pass(90), [Due::Hide(holder(1))]);
}

/// B24: the Go Piccolo's evictor deletes what it has selected, whatever came in between.
#[test]
fn a_host_whose_lease_is_renewed_while_its_hide_is_proposed_is_shown_again() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    assert_eq!(scene.pass(90), [Due::Hide(holder(1))]);
    scene.renew(&holder(1), NATIVE);
    let hidden = host(holder(1), NATIVE, Some(scene.unix_ms));
    assert_eq!(scene.follow(hidden), [holder(1)], "the caller must propose Unhide");
    assert_eq!(scene.pass(89), []);
    assert_eq!(scene.pass(1), [Due::Hide(holder(1))]);
}

#[test]
fn what_the_log_changes_renews_and_what_it_forgets_goes() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None), host(holder(2), NATIVE, None)]);
    scene.pass(80);
    assert_eq!(scene.follow(host(holder(2), NATIVE, None)), []);
    assert_eq!(scene.follow(host(holder(3), NATIVE, None)), []);
    scene.leases.retain(&HashSet::from([holder(1), holder(2)]));
    assert_eq!(scene.pass(10), [Due::Hide(holder(1))]);
    assert_eq!(scene.pass(80), [Due::Hide(holder(2))]);
    assert_eq!(scene.pass(3_600), []);
}

#[test]
fn a_command_that_failed_is_due_again_unless_the_lease_was_renewed() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None), host(holder(2), NATIVE, None)]);
    let due = scene.pass(90);
    assert_eq!(due.len(), 2);
    scene.renew(&holder(2), NATIVE);
    for due in due {
        scene.leases.postpone(due, scene.now, Duration::from_secs(1));
    }
    assert_eq!(scene.pass(2), [Due::Hide(holder(1))]);
    assert_eq!(scene.pass(88), [Due::Hide(holder(2))]);
}

#[test]
fn a_forget_that_failed_is_due_again_unless_the_lease_was_renewed() {
    let since = START_MS - 86_400_000;
    let forget = Due::Forget(holder(1), since);
    let mut scene = Scene::new(&[host(holder(1), NATIVE, Some(since))]);
    assert_eq!(scene.pass(3_600), std::slice::from_ref(&forget));
    scene.leases.postpone(forget.clone(), scene.now, Duration::from_secs(1));
    assert_eq!(scene.pass(1), std::slice::from_ref(&forget));
    scene.renew(&holder(1), NATIVE);
    scene.leases.postpone(forget, scene.now, Duration::from_secs(1));
    assert_eq!(scene.pass(89), []);
}

/// What broke: a `Hide` whose outcome was unknown was due again, and when it was applied after all, the
/// host was shown as if its lease had been renewed.
#[test]
fn a_hide_that_was_applied_although_it_seemed_to_fail_stays() {
    let mut scene = Scene::new(&[host(holder(1), NATIVE, None)]);
    let due = scene.pass(90).remove(0);
    scene.leases.postpone(due.clone(), scene.now, Duration::from_secs(1));
    assert_eq!(scene.follow(host(holder(1), NATIVE, Some(scene.unix_ms))), [], "no heartbeat has come");
    assert_eq!(scene.pass(300), []);
    scene.leases.postpone(due, scene.now, Duration::from_secs(1));
    assert_eq!(scene.pass(300), [], "and a failure that is reported late does not bring it back");
}

mod mass_end;
