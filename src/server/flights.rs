//! Flights: nodes share content that is still arriving, and one of them fetches it from the registry. This has the
//! rules: what is known of a flight ([`table`]), who fetches ([`claim`]), and which server keeps it ([`owner`]).

pub mod claim;
pub mod owner;
pub mod sample;
pub mod table;
pub mod wire;
