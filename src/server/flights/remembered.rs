//! The last answers of the owners of keys, from which a server answers nodes that have just come. Pure: time is an
//! argument.

use std::collections::HashMap;
use std::time::Duration;

use super::claim::Ruling;
use super::table::{Content, Sources};
use crate::limits::{FLIGHT_ANSWER_REMEMBERED, FLIGHT_ANSWERS_REMEMBERED_MAX, FLIGHT_OWNER_TIMEOUT};

/// The last answers, by content and zone of the asker.
#[derive(Debug, Default)]
pub struct OwnerAnswers {
    answers: HashMap<(Content, String), OwnerAnswer>,
}

#[derive(Debug)]
struct OwnerAnswer {
    sources: Sources,
    /// When it came.
    came: Duration,
    /// When a question was sent for a newer one; `None` while this one is fresh.
    asked: Option<Duration>,
}

impl OwnerAnswers {
    /// The last answer to a node of `zone`, if it is fresh. Who gets none asks the owner, and as long as its question
    /// may be on its way, others get the last answer: of a key that everybody asks for, one question a time is there.
    pub fn get(&mut self, content: &Content, zone: &str, now: Duration) -> Option<Sources> {
        let answer = self.answers.get_mut(&(content.clone(), zone.to_owned()))?;
        let age = now.saturating_sub(answer.came);
        let is_asked = answer.asked.is_some_and(|asked| now.saturating_sub(asked) < FLIGHT_OWNER_TIMEOUT);
        let is_usable = is_asked && age < FLIGHT_ANSWER_REMEMBERED + FLIGHT_OWNER_TIMEOUT;
        if age < FLIGHT_ANSWER_REMEMBERED || is_usable {
            return Some(answer.sources.clone());
        }
        answer.asked = Some(now);
        None
    }

    /// Remembers an answer that another node may be given, too.
    pub fn put(&mut self, content: &Content, zone: &str, sources: &Sources, now: Duration) {
        if matches!(sources.ruling, Some(Ruling::Yours | Ruling::Undecided(_))) {
            return;
        }
        let key = (content.clone(), zone.to_owned());
        if self.answers.len() >= FLIGHT_ANSWERS_REMEMBERED_MAX && !self.answers.contains_key(&key) {
            let most = FLIGHT_ANSWER_REMEMBERED + FLIGHT_OWNER_TIMEOUT;
            self.answers.retain(|_, answer| now.saturating_sub(answer.came) < most);
        }
        if self.answers.len() < FLIGHT_ANSWERS_REMEMBERED_MAX || self.answers.contains_key(&key) {
            self.answers.insert(key, OwnerAnswer { sources: sources.clone(), came: now, asked: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn content(number: usize) -> Content {
        Content { group: "g".to_owned(), key: format!("registry.example/app:{number}").parse().unwrap() }
    }

    fn came(came: u64) -> Sources {
        Sources { came, ..Sources::default() }
    }

    #[test]
    fn one_asks_for_a_newer_answer_and_others_get_the_last_one_meanwhile() {
        let mut answers = OwnerAnswers::default();
        let get = |answers: &mut OwnerAnswers, at: u32| {
            answers.get(&content(1), "a", MS * at).map(|sources| sources.came)
        };
        assert_eq!(get(&mut answers, 0), None, "there is none yet");
        answers.put(&content(1), "a", &came(1), MS);
        for (at, expected, why) in [
            (2, Some(1), "fresh"),
            (100, Some(1), "fresh"),
            (101, None, "this one asks"),
            (102, Some(1), "a question is on its way"),
            (399, Some(1), "a question is on its way"),
            (401, None, "the question had no answer in time"),
            (402, None, "the answer is too old for others"),
        ] {
            assert_eq!(get(&mut answers, at), expected, "{at} ms: {why}");
        }
        answers.put(&content(1), "a", &came(9), MS * 410);
        assert_eq!(get(&mut answers, 411), Some(9));
        assert_eq!(answers.get(&content(1), "b", MS * 411), None, "of another zone");
    }

    #[test]
    fn what_one_node_alone_is_told_is_not_remembered_and_there_is_a_limit() {
        let mut answers = OwnerAnswers::default();
        for ruling in [Ruling::Yours, Ruling::Undecided(MS)] {
            let sources = Sources { ruling: Some(ruling), ..Sources::default() };
            answers.put(&content(1), "", &sources, MS);
            assert_eq!(answers.get(&content(1), "", MS), None);
        }
        for number in 0..FLIGHT_ANSWERS_REMEMBERED_MAX + 2 {
            answers.put(&content(number), "", &came(1), MS);
        }
        assert_eq!(answers.answers.len(), FLIGHT_ANSWERS_REMEMBERED_MAX);
        answers.put(&content(0), "", &came(2), MS * 2);
        assert_eq!(answers.get(&content(0), "", MS * 2), Some(came(2)), "one that is there is renewed");
        answers.put(&content(usize::MAX), "", &came(3), MS * 500);
        assert_eq!(answers.get(&content(usize::MAX), "", MS * 500), Some(came(3)), "old ones make room");
    }
}
