//! Which reports count, for how long, and what ends them.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn holder(n: u32) -> Holder {
    let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    Holder { group: "g".into(), address: SocketAddr::new(ip, 7781) }
}

fn dead(n: u32) -> Subject {
    Subject { holder: holder(n), wrong: None }
}

fn wrong(n: u32, key: &str) -> Subject {
    Subject { holder: holder(n), wrong: Some(key.parse().unwrap()) }
}

fn source(n: u32) -> Source {
    Source::Host(IpAddr::from((0x0a01_0000 + n).to_be_bytes()))
}

fn reputation(reports: &ReportTable, n: u32, key: &str, now: Duration) -> Reputation {
    reports.reputation("g", &key.parse().unwrap(), now)(holder(n).address)
}

fn reported(subject: &Subject, by: impl IntoIterator<Item = u32>, now: Duration) -> ReportTable {
    let mut reports = ReportTable::default();
    for n in by {
        assert_eq!(reports.add(subject.clone(), source(n), 1, now), Taken::News);
    }
    reports
}

#[test]
fn three_distinct_sources_count_and_one_that_repeats_itself_does_not() {
    let mut reports = reported(&dead(1), [1, 2], SECOND);
    for _ in 0..10 {
        assert_eq!(reports.add(dead(1), source(2), 1, SECOND), Taken::Known);
    }
    assert_eq!(reputation(&reports, 1, "a:1", SECOND), Reputation::Sound);
    assert_eq!(reports.effective(), 0);
    assert_eq!(reports.add(dead(1), source(3), 1, SECOND), Taken::News);
    assert_eq!(reputation(&reports, 1, "a:1", SECOND), Reputation::Last);
    assert_eq!(reputation(&reports, 2, "a:1", SECOND), Reputation::Sound, "another holder");
    let other = reports.reputation("other", &"a:1".parse().unwrap(), SECOND)(holder(1).address);
    assert_eq!(other, Reputation::Sound, "the same address in another group");
    assert_eq!(reports.effective(), 1);
    assert_eq!(reports.add(dead(1), source(4), 1, SECOND), Taken::Known, "three are enough");
    assert_eq!(reports.sources.len(), REPORTERS_WANTED);
}

#[test]
fn wrong_bytes_leave_out_for_that_key_only_and_a_heartbeat_does_not_mend_them() {
    let mut reports = reported(&wrong(1, "a:1"), 1..=3, SECOND);
    assert_eq!(reputation(&reports, 1, "a:1", SECOND), Reputation::LeftOut);
    assert_eq!(reputation(&reports, 1, "b:1", SECOND), Reputation::Sound);
    assert!(!reports.alive(&holder(1)));
    assert_eq!(reputation(&reports, 1, "a:1", REPORT_WRONG_TTL), Reputation::LeftOut);
    assert_eq!(reputation(&reports, 1, "a:1", REPORT_WRONG_TTL + SECOND), Reputation::Sound);
}

#[test]
fn a_heartbeat_a_write_and_hiding_end_it_and_an_earlier_write_does_not() {
    let changed = |written, visible| [Changed { holder: holder(1), written, visible }];
    type End<'a> = &'a dyn Fn(&mut ReportTable);
    let ends: [(&str, bool, End<'_>); 6] = [
        ("heartbeat", true, &|reports| assert!(reports.alive(&holder(1)))),
        ("later write", true, &|reports| reports.follow(&changed(2, true), &[], false)),
        ("hidden", true, &|reports| reports.follow(&changed(1, false), &[], false)),
        ("forgotten", true, &|reports| reports.follow(&[], &[holder(1)], false)),
        ("not among all", true, &|reports| reports.follow(&[], &[], true)),
        ("write before the report", false, &|reports| reports.follow(&changed(1, true), &[], true)),
    ];
    for (name, over, end) in ends {
        let mut reports = reported(&dead(1), 1..=3, SECOND);
        end(&mut reports);
        assert_eq!(reports.is_empty(), over, "{name}");
        let expected = if over { Reputation::Sound } else { Reputation::Last };
        assert_eq!(reputation(&reports, 1, "a:1", SECOND), expected, "{name}");
        assert_eq!((reports.effective(), reports.sources.is_empty()), (usize::from(!over), over), "{name}");
    }
}

#[test]
fn reports_end_one_by_one_with_time_and_a_repeated_one_goes_on() {
    let mut reports = ReportTable::default();
    for n in 1..=3 {
        reports.add(dead(1), source(n), 1, SECOND * n);
    }
    let end = REPORT_TTL + SECOND;
    assert_eq!(reputation(&reports, 1, "a:1", end - SECOND / 2), Reputation::Last);
    assert_eq!(reputation(&reports, 1, "a:1", end), Reputation::Sound, "only two are left");
    assert_eq!(reports.add(dead(1), source(1), 1, end), Taken::News, "its older like has ended");
    assert_eq!(reputation(&reports, 1, "a:1", end), Reputation::Last);
    reports.expire(end + SECOND);
    assert_eq!(reputation(&reports, 1, "a:1", end + SECOND), Reputation::Sound);
    assert_eq!((reports.effective(), reports.sources.len()), (0, 2));
    reports.expire(2 * end);
    assert!(reports.is_empty() && reports.sources.is_empty());
}

#[test]
fn lasting_trouble_stays_known_while_others_take_over() {
    let mut reports = ReportTable::default();
    for n in 0..100 {
        reports.add(dead(1), source(n), 1, SECOND * 30 * n);
        if n >= 2 {
            assert_eq!(reputation(&reports, 1, "a:1", SECOND * 30 * n), Reputation::Last, "{n}");
        }
    }
    assert_eq!(reports.sources.len(), REPORTERS_WANTED);
}

#[test]
fn one_source_fills_no_more_than_its_share_and_all_no_more_than_the_table() {
    let mut reports = ReportTable::default();
    let share = REPORTS_PER_NODE_MAX as u32;
    for n in 0..share {
        assert_eq!(reports.add(dead(n), source(0), 1, SECOND), Taken::News);
    }
    assert_eq!(reports.add(dead(share), source(0), 1, SECOND), Taken::Full);
    assert_eq!(reports.add(dead(0), source(0), 1, SECOND), Taken::Known, "a repetition takes no room");
    for n in share..REPORTED_MAX as u32 {
        assert_eq!(reports.add(dead(n), source(n / share), 1, SECOND), Taken::News);
    }
    assert_eq!(reports.add(dead(REPORTED_MAX as u32), source(60_000), 1, SECOND), Taken::Full);
    assert_eq!(reports.add(wrong(0, "a:1"), source(60_000), 1, SECOND), Taken::Full);
    assert_eq!(reports.add(dead(0), source(60_000), 1, SECOND), Taken::News, "what is listed has room");
    assert_eq!(reports.lists.len(), REPORTED_MAX);
    reports.expire(SECOND + REPORT_TTL);
    assert!(reports.is_empty() && reports.sources.is_empty());
}
