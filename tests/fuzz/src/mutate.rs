//! Random mutations of inputs. The same seed gives the same input.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Number of changes to one input: few, so that most of it stays meaningful.
const CHANGES_MAX: usize = 6;
/// Largest number of repetitions of a piece, for nesting and long lists.
const REPEATS_MAX: usize = 300;

/// Numbers at which parsers fail, as text.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "0.5",
];

/// Makes inputs from kept ones.
pub struct Mutator {
    inputs: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    bytes_max: usize,
}

impl Mutator {
    /// A mutator of these inputs, at least one, and of words that parsers know. No result is longer than
    /// `bytes_max`.
    pub fn new(inputs: Vec<Vec<u8>>, words: Vec<Vec<u8>>, bytes_max: usize) -> Self {
        assert!(!inputs.is_empty() && !words.is_empty(), "there is something to begin with");
        Self { inputs, words, bytes_max }
    }

    /// The input for this seed.
    pub fn input(&self, seed: u64) -> Vec<u8> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut input = self.inputs.choose(&mut random).expect("there is one").clone();
        for _ in 0..random.random_range(1..=CHANGES_MAX) {
            self.change(&mut input, &mut random);
        }
        input.truncate(self.bytes_max);
        input
    }

    fn change(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        let place = random.random_range(0..=input.len());
        let piece = piece(input, place, random);
        match random.random_range(0..12) {
            0 => flip(input, place, random),
            1 => drop(input.drain(piece)),
            2 => insert(input, place, &self.words.choose(random).expect("there is one").clone()),
            3 => replace(input, piece, self.words.choose(random).expect("there is one")),
            4 => input.truncate(place),
            5 => {
                let copy = input[piece].to_vec();
                insert(input, place, &copy.repeat(random.random_range(1..4)));
            }
            6 => {
                let copy = input[place..input.len().min(place + random.random_range(1..=4))].to_vec();
                insert(input, place, &copy.repeat(random.random_range(1..=REPEATS_MAX)));
            }
            7 => number_as_text(input, random),
            8 => number_as_bytes(input, place, random),
            9 => {
                let other = self.inputs.choose(random).expect("there is one");
                let from = random.random_range(0..=other.len());
                input.truncate(place);
                input.extend_from_slice(&other[from..]);
            }
            10 => {
                let other = self.inputs.choose(random).expect("there is one");
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len());
                replace(input, piece, &other[from..to]);
            }
            _ => {
                let bytes: Vec<u8> = (0..random.random_range(1..9)).map(|_| random.random()).collect();
                insert(input, place, &bytes);
            }
        }
    }
}

/// A range from `place`, mostly short.
fn piece(input: &[u8], place: usize, random: &mut StdRng) -> std::ops::Range<usize> {
    let longest = [1, 4, 16, 64, input.len()].choose(random).copied().expect("there are some");
    place..input.len().min(place + random.random_range(0..=longest))
}

fn flip(input: &mut [u8], place: usize, random: &mut StdRng) {
    if let Some(byte) = input.get_mut(place) {
        match random.random_range(0..3) {
            0 => *byte ^= 1 << random.random_range(0..8),
            1 => *byte = [0, 1, 0x7f, 0x80, 0xff, b'"', b'/', b'%'].choose(random).copied().expect("some"),
            _ => *byte = byte.wrapping_add(random.random_range(1..=3)),
        }
    }
}

fn insert(input: &mut Vec<u8>, place: usize, bytes: &[u8]) {
    replace(input, place..place, bytes);
}

fn replace(input: &mut Vec<u8>, piece: std::ops::Range<usize>, bytes: &[u8]) {
    drop(input.splice(piece, bytes.iter().copied()));
}

/// Replaces a run of digits by another number.
fn number_as_text(input: &mut Vec<u8>, random: &mut StdRng) {
    let digits: Vec<usize> = (0..input.len()).filter(|at| input[*at].is_ascii_digit()).collect();
    let Some(&start) = digits.choose(random) else { return };
    let length = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    replace(input, start..start + length, NUMBERS.choose(random).expect("there are some").as_bytes());
}

/// Replaces bytes by a length or an id, little endian.
fn number_as_bytes(input: &mut [u8], place: usize, random: &mut StdRng) {
    let number = [0, 1, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX - 1, u64::MAX, input.len() as u64];
    let number = number.choose(random).expect("there are some").to_le_bytes();
    let width = [1, 2, 4, 8].choose(random).copied().expect("there are some").min(input.len() - place);
    input[place..place + width].copy_from_slice(&number[..width]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_input_and_others_differ() {
        let mutator = Mutator::new(
            vec![b"{\"a\":17}".to_vec(), b"GET / HTTP/1.1".to_vec()],
            vec![b"null".to_vec()],
            100,
        );
        let inputs: Vec<_> = (0..200).map(|seed| mutator.input(seed)).collect();
        assert_eq!(inputs, (0..200).map(|seed| mutator.input(seed)).collect::<Vec<_>>());
        let distinct: std::collections::BTreeSet<_> = inputs.iter().collect();
        assert!(distinct.len() > 150, "{} of 200 differ", distinct.len());
        assert!(inputs.iter().all(|input| input.len() <= 100));
    }
}
