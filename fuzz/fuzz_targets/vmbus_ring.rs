//! Both ends of a ring in memory that the guest changes at any time.
#![no_main]

use std::sync::atomic::Ordering;

use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use vmbus::ring::{Control, HeapRing, IncomingRing, OutgoingPacket, OutgoingRing, RingMemory};

const FIELDS: [Control; 5] = [
    Control::WriteIndex,
    Control::ReadIndex,
    Control::InterruptMask,
    Control::PendingSendSize,
    Control::FeatureBits,
];

/// What a guest does: any word, any index.
fn sabotage(memory: &HeapRing, input: &mut Input<'_>) {
    let choice = input.u8();
    if let Some(field) = FIELDS.get(usize::from(choice)) {
        // Mostly indices that are some.
        let value = if input.u8() < 200 { u32::from(input.u16()) * 8 } else { input.u32() };
        memory.control(*field).store(value, Ordering::Relaxed);
        return;
    }
    let words = memory.data_size() / 8;
    let first = u32::from(input.u16()) % words;
    for word in 0..u32::from(choice % 32) {
        // Small numbers make descriptors that fit.
        let value = if input.u8() < 128 {
            u64::from(input.u8()) | u64::from(input.u8()) << 16 | u64::from(input.u8()) << 32
        } else {
            input.u64()
        };
        memory.words((first + word) % words)[0].store(value, Ordering::Relaxed);
    }
}

fn read(ring: &mut IncomingRing<HeapRing>, size: u32, input: &mut Input<'_>) {
    let Ok(mut batch) = ring.batch() else { return };
    let mut most = input.u8();
    while let Ok(Some(packet)) = batch.next_packet() {
        let view = packet.data();
        let mut data = vec![0; usize::from(input.u8()) * 8];
        let got = view.read(&mut data);
        assert!(got <= view.len() && got <= data.len() && view.len() <= size as usize);
        assert_eq!(view.word(view.word_len()), None);
        for range in packet.gpa_ranges().into_iter().flatten().flatten() {
            let total: u64 = range.runs().map(|run| run.len).sum();
            assert_eq!(total, u64::from(range.byte_count));
            for run in range.runs() {
                assert!(run.len > 0 && run.gpa.checked_add(run.len - 1).is_some());
            }
        }
        if let Some((_, ranges)) = packet.transfer_ranges() {
            assert!(ranges.count() <= size as usize / 8);
        }
        most = most.wrapping_sub(1);
        if most == 0 {
            break;
        }
    }
    let _ = batch.finish();
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let memory = HeapRing::new(1 + u32::from(input.u8() % 3));
    let size = memory.data_size();
    sabotage(&memory, &mut input);
    let mut reader = IncomingRing::new(memory.clone()).ok();
    let mut writer = OutgoingRing::new(memory.clone()).ok();
    while !input.is_empty() {
        match (input.u8() % 8, &mut reader, &mut writer) {
            (0, Some(reader), _) => read(reader, size, &mut input),
            (1, Some(reader), _) => {
                reader.mask();
                let _ = reader.unmask();
            }
            (2 | 3, _, Some(writer)) => {
                let header = [input.u64(), input.u64()];
                let data = vec![input.u8(); usize::from(input.u16() % 1024)];
                let header = &header[..usize::from(input.u8() % 3)];
                let mut packet = OutgoingPacket::completion(input.u64(), &data);
                packet.header = header;
                let _ = writer.write(&packet);
            }
            (4, _, Some(writer)) => {
                writer.commit();
            }
            (5, _, Some(writer)) => {
                let _ = writer.wait_for_room(usize::from(input.u16()));
            }
            (6, _, Some(writer)) => writer.stop_waiting(),
            _ => sabotage(&memory, &mut input),
        }
    }
});
