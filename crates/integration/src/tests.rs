//! The services on a bus, with a guest's end that a test writes.

use std::sync::Arc;
use std::thread;

use clock::{Clock, FakeClock};
use counters::Registry;
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::Version as BusVersion;
use vmbus::ring::OutgoingPacket;

use crate::message::Response;
use crate::message::tests::{choose, respond};
use crate::*;

struct NoTime;

impl TimeSource for NoTime {
    fn wall(&self) -> u64 {
        0
    }

    fn reference(&self) -> u64 {
        0
    }
}

struct Rig {
    guest: Guest,
    clock: Arc<FakeClock>,
    integration: Arc<Integration>,
}

fn rig(services: Services) -> Rig {
    let guest = Guest::new(1, 256);
    let clock = FakeClock::new();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<_>;
    let integration = Arc::new(Integration::new(&shared, Arc::new(NoTime), &Registry::new()).unwrap());
    for service in services.iter() {
        integration.enable(service, &guest.server).unwrap();
    }
    guest.connect(BusVersion::WIN10_V5_3);
    Rig { guest, clock, integration }
}

impl Rig {
    /// Opens the only service that is offered.
    fn open(&mut self) -> GuestChannel {
        let offers = self.guest.request_offers();
        assert_eq!(offers.len(), 1);
        self.guest.open(&offers[0], 4, 0).unwrap()
    }

    fn state(&self, service: ServiceKind) -> State {
        let status = self.integration.status(Services::ALL);
        status.into_iter().find(|status| status.service == service).unwrap().state
    }
}

fn answer(channel: &mut GuestChannel, status: u32, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let request = channel.wait_receive();
    assert!(Response::decode(&request.data).is_none());
    let response = respond(&request.data, status, change);
    assert!(channel.send(&OutgoingPacket::in_band(request.transaction_id, &response)));
    request.data
}

fn agree(channel: &mut GuestChannel, version: Version) {
    answer(channel, 0, choose(Version::new(3, 0), version));
}

fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        thread::yield_now();
    }
}

#[test]
fn a_guest_that_is_asked_to_power_off_says_that_it_will() {
    let mut rig = rig(Services::NONE.with(ServiceKind::Shutdown));
    let unavailable = AskError::Unavailable(ServiceKind::Shutdown, "no contact");
    assert_eq!(rig.integration.shut_down(Shutdown::PowerOff, false), Err(unavailable));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(3, 2));
    wait_for(|| rig.state(ServiceKind::Shutdown) == State::Ok);
    let integration = Arc::clone(&rig.integration);
    let asked = thread::spawn(move || integration.shut_down(Shutdown::Restart, false));
    let request = answer(&mut channel, 0, |_| {});
    assert_eq!(request[28 + 8..28 + 12], [2, 0, 0, 0]);
    assert_eq!(asked.join().unwrap(), Ok(()));
    let integration = Arc::clone(&rig.integration);
    let asked = thread::spawn(move || integration.shut_down(Shutdown::Hibernate, true));
    answer(&mut channel, 0x8000_4005, |_| {});
    assert_eq!(asked.join().unwrap(), Err(AskError::Refused(0x8000_4005)));
}

#[test]
fn who_waits_is_told_when_the_driver_goes() {
    let mut rig = rig(Services::NONE.with(ServiceKind::Shutdown));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(3, 0));
    wait_for(|| rig.state(ServiceKind::Shutdown) == State::Ok);
    let integration = Arc::clone(&rig.integration);
    let asked = thread::spawn(move || integration.shut_down(Shutdown::PowerOff, false));
    channel.wait_receive();
    rig.guest.close(channel);
    assert_eq!(asked.join().unwrap(), Err(AskError::Gone));
    assert_eq!(rig.state(ServiceKind::Shutdown), State::NoContact);
}

#[test]
fn a_guest_that_misses_its_beats_is_lost_until_it_answers() {
    let mut rig = rig(Services::NONE.with(ServiceKind::Heartbeat));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(3, 0));
    let request = channel.wait_receive();
    rig.clock.advance(11 * clock::NANOSECONDS);
    assert_eq!(rig.state(ServiceKind::Heartbeat), State::Lost);
    let response = respond(&request.data, 0, |body| body[0] += 1);
    channel.send(&OutgoingPacket::in_band(request.transaction_id, &response));
    wait_for(|| rig.state(ServiceKind::Heartbeat) == State::Ok);
    // The next one has been due for long.
    channel.wait_receive();
}

#[test]
fn a_service_that_is_taken_away_is_rescinded_and_comes_again() {
    let mut rig = rig(Services::NONE.with(ServiceKind::TimeSync));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(4, 0));
    channel.wait_receive();
    assert!(rig.integration.disable(ServiceKind::TimeSync, &rig.guest.server));
    assert!(!rig.integration.disable(ServiceKind::TimeSync, &rig.guest.server));
    wait_for(|| rig.state(ServiceKind::TimeSync) == State::NoContact);
    assert_eq!(rig.integration.status(Services::NONE)[1].state, State::Disabled);
}

#[test]
fn noise_on_a_channel_changes_nothing() {
    let mut rig = rig(Services::NONE.with(ServiceKind::KeyValue));
    let mut channel = rig.open();
    let request = channel.wait_receive();
    for noise in [&[][..], &[0xff; 3], &[0xff; 200], &request.data] {
        channel.send(&OutgoingPacket::in_band(0, noise));
    }
    assert_eq!(rig.state(ServiceKind::KeyValue), State::Negotiating);
    let response = respond(&request.data, 0, choose(Version::new(1, 0), Version::new(4, 0)));
    channel.send(&OutgoingPacket::in_band(0, &response));
    wait_for(|| rig.state(ServiceKind::KeyValue) == State::Ok);
    let integration = Arc::clone(&rig.integration);
    let asked = thread::spawn(move || integration.set_key("key", "value"));
    answer(&mut channel, 0, |_| {});
    assert_eq!(asked.join().unwrap(), Ok(()));
    assert!(matches!(rig.integration.set_key("", "x"), Err(AskError::Text(_))));
    assert!(matches!(rig.integration.set_key("k", &"x".repeat(1023)), Err(AskError::Text(_))));
}
