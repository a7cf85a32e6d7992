//! Registers between their architectural names and KVM's structures, and as text.

use std::fmt::Write;

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use processor::{DescriptorTable, Segment, SegmentAttributes, StartRegisters};

/// Bit 1 of RFLAGS is always set.
const RFLAGS_FIXED: u64 = 2;
/// Attributes as in VMX: see [`SegmentAttributes`].
const UNUSABLE: u32 = 1 << 16;

/// The general registers of `registers`.
pub fn to_general(registers: &StartRegisters) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers.general;
    let (rip, rflags) = (registers.rip, registers.rflags | RFLAGS_FIXED);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

/// `present` with the system registers of `registers`. What those do not have stays.
pub fn to_system(registers: &StartRegisters, present: kvm_sregs) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = registers.segments.map(to_segment);
    kvm_sregs {
        es,
        cs,
        ss,
        ds,
        fs,
        gs,
        tr: to_segment(registers.tr),
        ldt: to_segment(registers.ldtr),
        gdt: to_table(registers.gdtr),
        idt: to_table(registers.idtr),
        cr0: registers.cr0,
        cr3: registers.cr3,
        cr4: registers.cr4,
        efer: registers.efer,
        ..present
    }
}

/// The registers that KVM has.
pub fn from_kvm(general: &kvm_regs, system: &kvm_sregs) -> StartRegisters {
    let r = general;
    let segments = [&system.es, &system.cs, &system.ss, &system.ds, &system.fs, &system.gs].map(from_segment);
    StartRegisters {
        rip: r.rip,
        rflags: r.rflags,
        general: [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ],
        segments,
        tr: from_segment(&system.tr),
        ldtr: from_segment(&system.ldt),
        gdtr: DescriptorTable { base: system.gdt.base, limit: system.gdt.limit },
        idtr: DescriptorTable { base: system.idt.base, limit: system.idt.limit },
        cr0: system.cr0,
        cr3: system.cr3,
        cr4: system.cr4,
        efer: system.efer,
        pat: None,
    }
}

fn to_table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

fn to_segment(segment: Segment) -> kvm_segment {
    let attributes = segment.attributes.0;
    let bit = |shift: u32| (attributes >> shift & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (attributes & 0xf) as u8,
        s: bit(4),
        dpl: (attributes >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: u8::from(attributes & UNUSABLE != 0 || bit(7) == 0),
        padding: 0,
    }
}

fn from_segment(segment: &kvm_segment) -> Segment {
    let attributes = u32::from(segment.type_)
        | u32::from(segment.s) << 4
        | u32::from(segment.dpl) << 5
        | u32::from(segment.present) << 7
        | u32::from(segment.avl) << 12
        | u32::from(segment.l) << 13
        | u32::from(segment.db) << 14
        | u32::from(segment.g) << 15
        | u32::from(segment.unusable) << 16;
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes: SegmentAttributes(attributes),
    }
}

/// The registers of processor `vp` as text, for logs.
pub fn describe(vp: u32, general: &kvm_regs, system: &kvm_sregs) -> String {
    let registers = from_kvm(general, system);
    let mut text = format!(
        "processor {vp} at {:04x}:{:016x}, flags {:08x}\n",
        system.cs.selector, registers.rip, registers.rflags
    );
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    for (index, (name, value)) in NAMES.iter().zip(registers.general).enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _infallible = write!(text, "{name:>3} {value:016x}{end}");
    }
    let segments = registers.segments.iter().chain([&registers.ldtr, &registers.tr]);
    for (name, segment) in ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"].into_iter().zip(segments) {
        let _infallible = writeln!(
            text,
            "{name:>4} {:04x} base {:016x} limit {:08x} attributes {:05x}",
            segment.selector, segment.base, segment.limit, segment.attributes.0
        );
    }
    let (gdtr, idtr) = (registers.gdtr, registers.idtr);
    let _infallible = write!(
        text,
        "gdtr {:016x} limit {:04x} idtr {:016x} limit {:04x}\n\
         cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:04x}",
        gdtr.base,
        gdtr.limit,
        idtr.base,
        idtr.limit,
        system.cr0,
        system.cr2,
        system.cr3,
        system.cr4,
        system.efer,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StartRegisters {
        let segment = |selector, attributes| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            attributes: SegmentAttributes(attributes),
        };
        let data = segment(0x18, 0xc093);
        StartRegisters {
            rip: 0x100_0200,
            rflags: 0x202,
            general: std::array::from_fn(|index| index as u64 * 3),
            segments: [data, segment(0x10, 0xa09b), data, data, data, segment(0, UNUSABLE)],
            tr: segment(0x20, 0x8b),
            ldtr: segment(0, UNUSABLE),
            gdtr: DescriptorTable { base: 0x500, limit: 0x1f },
            idtr: DescriptorTable { base: 0x600, limit: 0xfff },
            cr0: 0x8000_0011,
            cr3: 0x9000,
            cr4: 0x20,
            efer: 0x500,
            pat: None,
        }
    }

    #[test]
    fn registers_come_back_as_they_went() {
        let registers = sample();
        let (general, system) = (to_general(&registers), to_system(&registers, kvm_sregs::default()));
        assert_eq!(from_kvm(&general, &system), registers);
        assert_eq!((general.rsp, general.rsi, system.cs.l, system.gs.unusable), (12, 18, 1, 1));
    }

    #[test]
    fn what_a_start_does_not_name_stays() {
        let present = kvm_sregs { apic_base: 0xfee0_0900, cr8: 3, ..kvm_sregs::default() };
        let system = to_system(&sample(), present);
        assert_eq!((system.apic_base, system.cr8), (0xfee0_0900, 3));
    }

    #[test]
    fn the_text_names_place_and_control_registers() {
        let registers = sample();
        let system = to_system(&registers, kvm_sregs::default());
        let text = describe(3, &to_general(&registers), &system);
        assert!(text.starts_with("processor 3 at 0010:0000000001000200, flags 00000202\n"), "{text}");
        assert!(
            text.ends_with("cr0 80000011 cr2 0000000000000000 cr3 0000000000009000 cr4 00000020 efer 0500")
        );
    }
}
