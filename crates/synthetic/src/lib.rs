//! Synthetic devices: the providers (VSPs) behind VMBus channels. Each folder is one.
//!
//! A provider is a [`vmbus::Device`]: it is offered on the bus, and when the guest opens its channel, one
//! event loop serves it until the guest closes it.
#![forbid(unsafe_code)]

pub mod memory;
pub mod network;
pub mod socket;
pub mod storage;
