//! Guest tests: real Debian kernels on the interpreter.
//!
//! They need what `make guests build` makes. Those that are ignored take long and run in `make test-all`.

mod boot;
mod change;
mod crash;
mod debugger;
mod disk;
mod end;
mod lockstep;
mod probe;
mod stress;
