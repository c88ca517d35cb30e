//! Heartbeats of a fleet that was started in the same second, by the schedule of the real agent over
//! simulated time: how evenly they are spread over the seconds. The second scene has an outage of the
//! servers.

use anyhow::Result;
use piccolo::agent::backoff::HeartbeatSchedule;
use piccolo::limits::HEARTBEAT_INTERVAL_DEFAULT;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::plot::lines;
use crate::report::Report;
use crate::stats::Spread;

const SEED: u64 = 50_000;
/// Number of intervals that are simulated.
const PERIODS: usize = 10;
/// Seconds of the second scene in which no server answers.
const OUTAGE: std::ops::Range<usize> = 60..180;

/// Number of heartbeats in each second.
struct Rates(Vec<u32>);

impl Rates {
    /// Simulates `agents` that start at once over `seconds`; no heartbeat is answered during `outage`.
    fn simulate(agents: usize, seconds: usize, outage: std::ops::Range<usize>) -> Self {
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut calls = vec![0; seconds];
        for _ in 0..agents {
            let mut heartbeats = HeartbeatSchedule::new(HEARTBEAT_INTERVAL_DEFAULT);
            let mut at = heartbeats.first(&mut rng);
            while let Some(count) = calls.get_mut(at.as_secs() as usize) {
                *count += 1;
                let heard = !outage.contains(&(at.as_secs() as usize));
                at += if heard {
                    heartbeats.after_success(&mut rng)
                } else {
                    heartbeats.after_failure(&mut rng, None)
                };
            }
        }
        Self(calls)
    }

    fn over(&self, seconds: std::ops::Range<usize>) -> Spread {
        Spread::of(self.0[seconds].iter().copied().map(f64::from))
    }

    fn points(&self) -> Vec<(f64, f64)> {
        self.0.iter().enumerate().map(|(second, calls)| (second as f64, f64::from(*calls))).collect()
    }
}

/// Highest rate divided by the mean, over these seconds.
fn peak(rates: &Rates, seconds: std::ops::Range<usize>) -> f64 {
    let calls = &rates.0[seconds];
    let mean = f64::from(calls.iter().sum::<u32>()) / calls.len() as f64;
    f64::from(calls.iter().copied().max().unwrap_or(0)) / mean
}

/// Runs the simulation and writes its section.
pub(crate) fn jitter(agents: usize, report: &Report) -> Result<()> {
    let interval = HEARTBEAT_INTERVAL_DEFAULT.as_secs() as usize;
    let seconds = PERIODS * interval;
    let steady = Rates::simulate(agents, seconds, 0..0);
    let away = Rates::simulate(agents, seconds, OUTAGE);
    let even =
        vec![(0.0, agents as f64 / interval as f64), (seconds as f64, agents as f64 / interval as f64)];
    let svg = lines(
        &format!("Heartbeats of {agents} agents that were started in the same second"),
        "seconds since the start",
        "calls a second",
        &[("calls", steady.points()), ("evenly", even.clone())],
    );
    let mut body = format!(
        "The schedule of the real agent, interval {interval} s, simulated over {PERIODS} intervals, seed {SEED}. \
         Chance alone puts {:.2} × the mean into the busiest of {seconds} seconds.\n\n\
         | scene | seconds | calls a second: median (lowest–highest) | highest × mean |\n|---|---|---|---|\n",
        busiest_by_chance(agents as f64 / interval as f64, seconds)
    );
    for period in [0..interval, interval..2 * interval, seconds - interval..seconds, 0..seconds] {
        row(&mut body, "started in the same second", &steady, period);
    }
    row(&mut body, "servers away", &away, OUTAGE);
    row(
        &mut body,
        "the second in which they are back, and an interval",
        &away,
        OUTAGE.end..OUTAGE.end + interval,
    );
    row(&mut body, "after that", &away, OUTAGE.end + interval..seconds);
    body.push('\n');
    body.push_str(&report.plot("jitter", &svg)?);
    let svg = lines(
        &format!("The same with no server from second {} to {}", OUTAGE.start, OUTAGE.end),
        "seconds since the start",
        "calls a second",
        &[("calls", away.points()), ("evenly", even)],
    );
    body.push_str(&report.plot("jitter-outage", &svg)?);
    report.section("jitter", "Heartbeats of a fleet that starts at once", &body)
}

fn row(body: &mut String, scene: &str, rates: &Rates, seconds: std::ops::Range<usize>) {
    body.push_str(&format!(
        "| {scene} | {}–{} | {:.0} | {:.2} |\n",
        seconds.start,
        seconds.end,
        rates.over(seconds.clone()),
        peak(rates, seconds.clone())
    ));
}

/// Expected highest of `seconds` independent Poisson counts, divided by their mean: the normal quantile of 1
/// - 1/n, about √(2 ln n) standard deviations.
fn busiest_by_chance(mean: f64, seconds: usize) -> f64 {
    1.0 + (2.0 * (seconds as f64).ln()).sqrt() / mean.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_started_in_one_second_is_as_even_as_chance_allows() {
        let rates = Rates::simulate(50_000, 300, 0..0);
        assert!(peak(&rates, 0..300) < 1.15, "{}", peak(&rates, 0..300));
        assert!(rates.over(0..300).low > 1_400.0);
    }

    #[test]
    fn servers_that_come_back_are_not_met_by_the_whole_fleet() {
        let rates = Rates::simulate(50_000, 300, OUTAGE);
        let most = rates.over(OUTAGE.end..300).high;
        assert!(most < 3.0 * 50_000.0 / 30.0, "{most} calls in one second");
    }
}
