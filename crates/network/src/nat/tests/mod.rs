//! The network as guests see it: [`real`] over the host's loopback, [`lab`] without a host and with a clock of its own.

mod guest;
mod lab;
mod real;
