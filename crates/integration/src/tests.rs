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
fn a_beat_tells_how_the_guest_s_applications_are_and_silence_that_nobody_knows() {
    let mut rig = rig(Services::NONE.with(ServiceKind::Heartbeat));
    let mut channel = rig.open();
    let applications = |rig: &Rig| rig.integration.status(Services::ALL)[2].applications;
    agree(&mut channel, Version::new(3, 0));
    assert_eq!(applications(&rig), None);
    let request = channel.wait_receive();
    // The next beat is due when this one is answered.
    rig.clock.advance(2 * clock::NANOSECONDS);
    let response = respond(&request.data, 0, |body| (body[0], body[8]) = (body[0] + 1, 2));
    channel.send(&OutgoingPacket::in_band(request.transaction_id, &response));
    channel.wait_receive();
    assert_eq!(applications(&rig), Some(Applications::Critical));
    rig.clock.advance(11 * clock::NANOSECONDS);
    assert_eq!((rig.state(ServiceKind::Heartbeat), applications(&rig)), (State::Lost, None));
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

#[test]
fn who_waits_for_a_guest_that_is_late_is_told_so_and_the_late_answer_is_nobody_else_s() {
    const SOON: Duration = Duration::from_millis(20);
    let mut rig = rig(Services::NONE.with(ServiceKind::Shutdown));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(3, 2));
    wait_for(|| rig.state(ServiceKind::Shutdown) == State::Ok);
    let Integration { shutdown, .. } = &*rig.integration;
    let ask = |what, patience| {
        let wish = shutdown::Wish(what, false);
        rig.integration.ask(ServiceKind::Shutdown, shutdown, wish, patience)
    };
    assert_eq!(ask(Shutdown::PowerOff, SOON), Err(AskError::Timeout));
    // It waits behind the first one, and goes with the one who wanted it.
    assert_eq!(ask(Shutdown::Hibernate, SOON), Err(AskError::Timeout));
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(Shutdown::Restart, PATIENCE));
        // Late, and refused.
        assert_eq!(answer(&mut channel, 0x8000_4005, |_| {})[28 + 8], 0);
        assert_eq!(answer(&mut channel, 0, |_| {})[28 + 8], 2);
        assert_eq!(asked.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_freeze_that_is_not_over_in_time_is_undone_when_it_is() {
    let mut rig = rig(Services::NONE.with(ServiceKind::Backup));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(5, 0));
    wait_for(|| rig.state(ServiceKind::Backup) == State::Ok);
    let Integration { backup, .. } = &*rig.integration;
    let frozen =
        rig.integration.ask(ServiceKind::Backup, backup, backup::Wish::Freeze, Duration::from_millis(20));
    assert_eq!(frozen, Err(AskError::Timeout));
    assert_eq!(answer(&mut channel, 0, |_| {})[28], backup::Wish::Freeze as u8);
    assert_eq!(answer(&mut channel, 0, |_| {})[28], backup::Wish::Thaw as u8);
}

#[test]
fn a_guest_that_stands_still_goes_on_whatever_becomes_of_the_copy() {
    let mut rig = rig(Services::NONE.with(ServiceKind::Backup));
    let mut channel = rig.open();
    agree(&mut channel, Version::new(5, 0));
    wait_for(|| rig.state(ServiceKind::Backup) == State::Ok);
    let integration = &rig.integration;
    let mut round = |status, copied: bool| {
        thread::scope(|scope| {
            let ended = scope.spawn(move || {
                let frozen = integration.freeze()?;
                if copied {
                    frozen.thaw()
                } else {
                    drop(frozen);
                    Ok(())
                }
            });
            let asked = [0, 0, status].map(|status| answer(&mut channel, status, |_| {})[28]);
            assert_eq!(
                asked,
                [backup::Wish::Check, backup::Wish::Freeze, backup::Wish::Thaw].map(|wish| wish as u8)
            );
            ended.join().unwrap()
        })
    };
    assert_eq!(round(0, true), Ok(()));
    assert_eq!(round(0, false), Ok(()));
    // What was copied of a guest that did not stand still to the end may be a mixture.
    assert_eq!(round(0x8000_4005, true), Err(AskError::Refused(0x8000_4005)));
}

#[test]
fn messages_longer_than_any_guest_s_are_cut_off_and_ignored() {
    let mut rig = rig(Services::NONE.with(ServiceKind::KeyValue));
    let offers = rig.guest.request_offers();
    let mut channel = rig.guest.open(&offers[0], 32, 0).unwrap();
    agree(&mut channel, Version::new(4, 0));
    wait_for(|| rig.state(ServiceKind::KeyValue) == State::Ok);
    let integration = Arc::clone(&rig.integration);
    let asked = thread::spawn(move || integration.key_values());
    // The first pair of a pool, with more behind it than there is room for; its sizes are beyond all bounds.
    let request = channel.wait_receive();
    let mut response = respond(&request.data, 0, |body| body[8..20].fill(0xff));
    response.resize(message::LONGEST + 5000, 0xff);
    assert!(channel.send(&OutgoingPacket::in_band(request.transaction_id, &response)));
    // The same that answers nothing.
    assert!(channel.send(&OutgoingPacket::in_band(request.transaction_id, &[0xff; message::LONGEST + 1])));
    while !asked.is_finished() {
        if let Some(request) = channel.receive() {
            let response = respond(&request.data, message::STATUS_NO_MORE, |_| {});
            channel.send(&OutgoingPacket::in_band(request.transaction_id, &response));
        }
        thread::yield_now();
    }
    assert_eq!(asked.join().unwrap(), Ok(KeyValues::default()));
}
