//! Synthetic devices: the providers behind VMBus channels.
