//! The lookups: keys with a few holders, with many, with all, and a mix like that of pulls. Seeds are fixed,
//! so that every run and every side gets the same requests.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::fleet::{Fleet, GROUP};
use crate::names::KeyNames;
use piccolo::api::path;

const SEED: u64 = 0x1007;
/// Prepared requests of a class, which are sent repeatedly.
const REQUESTS: usize = 8192;
/// Requests of the mix from one inventory, because making inventories takes time.
const KEYS_OF_A_HOST: usize = 8;
/// Number of keys in a class.
const KEYS: usize = 64;
/// Targets for the number of holders in the classes between "some" and "all".
const HOLDERS: [u32; 2] = [40, 1_000];
/// Number of holders that our agents ask for.
const COUNT_NATIVE: usize = 16;
/// Number of holders that the Go `pi` asks for.
const COUNT_GO: usize = 3;

/// Class of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Keys with about this many holders.
    Holders(u32),
    /// Keys that every host holds.
    All(u32),
    /// Keys as they occur in inventories: what is pulled often is held often.
    Mix,
}

impl Class {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Holders(holders) => format!("{holders} holders"),
            Self::All(hosts) => format!("{hosts} holders (all)"),
            Self::Mix => "mix".to_owned(),
        }
    }
}

/// Form of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lookup of our agent: `ip:port`, 16 holders.
    Native,
    /// Lookup of the Go `pi`: a bare address, 3 holders.
    Go,
}

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Go => "Go",
        }
    }
}

/// One class of keys in one form of lookup.
pub(crate) struct Question {
    pub(crate) class: Class,
    pub(crate) form: Form,
    pub(crate) requests: Vec<Vec<u8>>,
}

/// All questions: each class in both forms with the same keys and askers.
pub(crate) fn questions(fleet: Fleet, names: &KeyNames) -> Vec<Question> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut questions = Vec::new();
    for (class, keys) in classes(fleet) {
        let pairs: Vec<(u32, u32)> = match class {
            Class::Mix => mixed(fleet, &mut random),
            _ => (0..REQUESTS)
                .map(|_| (random.random_range(0..fleet.hosts), keys[random.random_range(0..keys.len())]))
                .collect(),
        };
        for form in [Form::Native, Form::Go] {
            let request = |&(asker, key): &(u32, u32)| request(fleet, names, form, asker, key);
            let requests = pairs.iter().map(request).collect();
            questions.push(Question { class: class.clone(), form, requests });
        }
    }
    questions
}

/// Keys that some host holds, each with another host that asks.
fn mixed(fleet: Fleet, random: &mut StdRng) -> Vec<(u32, u32)> {
    let mut pairs = Vec::with_capacity(REQUESTS);
    while pairs.len() < REQUESTS {
        let holder = random.random_range(0..fleet.hosts);
        let inventory = fleet.inventory(holder);
        pairs.extend((0..KEYS_OF_A_HOST).map(|_| {
            let asker = (holder + random.random_range(1..fleet.hosts)) % fleet.hosts;
            (asker, inventory[random.random_range(0..inventory.len())])
        }));
    }
    pairs.shuffle(random);
    pairs
}

fn request(fleet: Fleet, names: &KeyNames, form: Form, asker: u32, key: u32) -> Vec<u8> {
    let asker = fleet.address(asker);
    let (count, asker) = match form {
        Form::Native => (COUNT_NATIVE, asker.to_string()),
        Form::Go => (COUNT_GO, asker.ip().to_string()),
    };
    // Both agents escape the colons of key and address.
    let (key, asker) = (names.get(key).replace(':', "%3A"), asker.replace(':', "%3A"));
    let find = path::FINDKEY;
    format!(
        "GET {find}?key={key}&group={GROUP}&count={count}&request_host={asker} HTTP/1.1\r\n\
         Host: piccolo\r\nAccept: application/json\r\n\r\n"
    )
    .into_bytes()
}

/// The classes that a fleet of this size has, with their keys.
fn classes(fleet: Fleet) -> Vec<(Class, Vec<u32>)> {
    let mut holders = vec![0u32; fleet.distinct_keys as usize];
    for host in 0..fleet.hosts {
        fleet.inventory(host).into_iter().for_each(|key| holders[key as usize] += 1);
    }
    let mut classes = Vec::new();
    for wanted in HOLDERS.into_iter().filter(|wanted| *wanted < fleet.hosts / 2) {
        let mut keys: Vec<u32> = (fleet.common_keys..fleet.distinct_keys).collect();
        keys.sort_by_key(|key| holders[*key as usize].abs_diff(wanted));
        keys.truncate(KEYS);
        let mut found: Vec<u32> = keys.iter().map(|key| holders[*key as usize]).collect();
        found.sort_unstable();
        classes.push((Class::Holders(found[found.len() / 2]), keys));
    }
    classes.push((Class::All(fleet.hosts), (0..fleet.common_keys).collect()));
    classes.push((Class::Mix, Vec::new()));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_asked_in_both_forms_by_the_same_askers_for_the_same_keys() {
        let fleet = Fleet::FULL.with_hosts(300);
        let questions = questions(fleet, &KeyNames::of(fleet));
        let names: Vec<_> = questions.iter().map(|q| (q.class.name(), q.form.name())).collect();
        assert_eq!(names.len(), 6, "40 holders, all, mix: {names:?}");
        assert!(matches!(questions[0].class, Class::Holders(35..=45)), "{names:?}");
        for forms in questions.chunks(2) {
            for (native, go) in forms[0].requests.iter().zip(&forms[1].requests) {
                let native = String::from_utf8(native.clone()).unwrap();
                let go = String::from_utf8(go.clone()).unwrap();
                let bare = native.replace("count=16", "count=3").replace("%3A7781 HTTP", " HTTP");
                assert!(native.contains("%3A7781 HTTP/1.1\r\n"));
                assert_eq!(go, bare);
            }
        }
    }

    #[test]
    fn the_mix_asks_for_what_another_host_holds() {
        let fleet = Fleet::FULL.with_hosts(30);
        let mut random = StdRng::seed_from_u64(1);
        let mut common = 0;
        let inventories: Vec<Vec<u32>> = (0..30).map(|host| fleet.inventory(host)).collect();
        for (asker, key) in mixed(fleet, &mut random) {
            let holds = |host: &usize| inventories[*host].contains(&key);
            assert!((0..30).filter(|host| *host != asker as usize).any(|host| holds(&host)));
            common += usize::from(key < fleet.common_keys);
        }
        let share = common as f64 / REQUESTS as f64;
        assert!((0.03..0.07).contains(&share), "20 of 400 keys are held by all, asked for: {share}");
    }
}
