//! VMBus: rings, the channel protocol and the server.
