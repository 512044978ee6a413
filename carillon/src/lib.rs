//! Carillon in one process: the embedded log and bus, the owners of all partitions, the token authority and a gateway,
//! the same code as the services run. The binary beside it is the command line.

mod all_in_one;
pub mod control;
mod page;

pub use all_in_one::{AllInOne, Mode};
