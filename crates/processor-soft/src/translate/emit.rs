//! Writes host instructions: the few forms that generated code repeats. Everything else comes from
//! iced-x86's encoder as bytes.

/// Host registers by number.
pub mod host {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    /// Scratch: the address of a memory operand.
    pub const S0: u8 = 13;
    /// Scratch.
    pub const S1: u8 = 14;
}

/// What the host's segment registers lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    None,
    /// FS: the present tables of the first level of the TLB.
    Tables,
    /// GS: the processor's state.
    State,
}

/// A memory operand of a host instruction.
#[derive(Debug, Clone, Copy)]
pub struct Mem {
    segment: Segment,
    base: Option<u8>,
    index: Option<(u8, u8)>,
    disp: i32,
}

impl Mem {
    /// A field of the processor's state.
    pub fn state(offset: usize) -> Self {
        Self { segment: Segment::State, base: None, index: None, disp: offset as i32 }
    }

    /// A field of the state that is an array, at the distance in `index`.
    pub fn state_at(offset: usize, index: u8, shift: u8) -> Self {
        Self { segment: Segment::State, base: None, index: Some((index, shift)), disp: offset as i32 }
    }

    /// An entry of the first level's tables.
    pub fn tables(base: u8, disp: i32) -> Self {
        Self { segment: Segment::Tables, base: Some(base), index: None, disp }
    }

    /// `[base + disp]`.
    pub fn base(base: u8, disp: i32) -> Self {
        Self { segment: Segment::None, base: Some(base), index: None, disp }
    }

    /// `[disp]`, sign-extended.
    pub fn absolute(disp: i32) -> Self {
        Self { segment: Segment::None, base: None, index: None, disp }
    }

    /// `[base + index << shift + disp]`.
    pub fn indexed(base: Option<u8>, index: u8, shift: u8, disp: i32) -> Self {
        Self { segment: Segment::None, base, index: Some((index, shift)), disp }
    }
}

/// A place in the code that jumps go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

const UNBOUND: usize = usize::MAX;

/// Code on its way to the arena.
pub struct Emitter {
    /// Executable address of the first byte.
    origin: u64,
    buffers: Buffers,
}

/// The memory of an [`Emitter`], which the next one may have again.
#[derive(Default)]
pub struct Buffers {
    pub code: Vec<u8>,
    /// Where in the code 32-bit distances to what is outside of it are.
    pub reaches: Vec<u32>,
    labels: Vec<usize>,
    /// Where a 32-bit distance to a label has to be filled in.
    fixups: Vec<(usize, usize)>,
}

impl Clone for Buffers {
    /// What is of use when the code is finished.
    fn clone(&self) -> Self {
        Self { code: self.code.clone(), reaches: self.reaches.clone(), ..Self::default() }
    }
}

impl Emitter {
    /// Code that will stand at `origin`.
    pub fn new(origin: u64) -> Self {
        Self::reusing(Buffers::default(), origin)
    }

    /// The same, in the memory of an emitter before it.
    pub fn reusing(mut buffers: Buffers, origin: u64) -> Self {
        buffers.code.clear();
        buffers.reaches.clear();
        buffers.labels.clear();
        buffers.fixups.clear();
        Self { origin, buffers }
    }

    /// Executable address of the next byte.
    pub fn here(&self) -> u64 {
        self.origin + self.buffers.code.len() as u64
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffers.code.extend_from_slice(bytes);
    }

    /// A label to be bound later.
    pub fn label(&mut self) -> Label {
        self.buffers.labels.push(UNBOUND);
        Label(self.buffers.labels.len() - 1)
    }

    /// Binds `label` here.
    pub fn bind(&mut self, label: Label) {
        self.buffers.labels[label.0] = self.buffers.code.len();
    }

    /// The code, with all jumps to labels filled in.
    pub fn finish(mut self) -> Buffers {
        let Buffers { code, labels, fixups, .. } = &mut self.buffers;
        for &(at, label) in fixups.iter() {
            let distance = labels[label] as i64 - (at as i64 + 4);
            code[at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        self.buffers
    }

    fn memory(&mut self, wide: bool, opcode: &[u8], reg: u8, mem: Mem) {
        match mem.segment {
            Segment::None => {}
            Segment::Tables => self.bytes(&[0x64]),
            Segment::State => self.bytes(&[0x65]),
        }
        let extend = |n: Option<u8>| n.unwrap_or(0) >> 3 & 1;
        let index = mem.index.map(|(register, _)| register);
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3 & 1) << 2 | extend(index) << 1 | extend(mem.base);
        if rex != 0x40 {
            self.bytes(&[rex]);
        }
        self.bytes(opcode);
        let field = (reg & 7) << 3;
        let (index_field, shift) = mem.index.map_or((4, 0), |(register, shift)| (register & 7, shift));
        match mem.base {
            None => {
                self.bytes(&[field | 4, shift << 6 | index_field << 3 | 5]);
                self.bytes(&mem.disp.to_le_bytes());
            }
            Some(base) => {
                let sib = mem.index.is_some() || base & 7 == 4;
                let mode: u8 = match mem.disp {
                    0 if base & 7 != 5 => 0,
                    disp if i8::try_from(disp).is_ok() => 1,
                    _ => 2,
                };
                if sib {
                    self.bytes(&[mode << 6 | field | 4, shift << 6 | index_field << 3 | base & 7]);
                } else {
                    self.bytes(&[mode << 6 | field | base & 7]);
                }
                match mode {
                    0 => {}
                    1 => self.bytes(&[mem.disp as u8]),
                    _ => self.bytes(&mem.disp.to_le_bytes()),
                }
            }
        }
    }

    fn registers(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | rm >> 3;
        if rex != 0x40 {
            self.bytes(&[rex]);
        }
        self.bytes(opcode);
        self.bytes(&[0xc0 | (reg & 7) << 3 | rm & 7]);
    }

    /// `rorx to, from, count` of 64 bits, or MOV and SHR where the host has no BMI2: the bits that differ are
    /// above 56.
    pub fn shift_right_8(&mut self, to: u8, from: u8, bmi2: bool) {
        if bmi2 {
            // VEX.LZ.F2.0F3A.W1 F0 /r ib
            self.bytes(&[0xc4, (!(to >> 3) & 1) << 7 | 0x40 | (!(from >> 3) & 1) << 5 | 3, 0xfb, 0xf0]);
            self.bytes(&[0xc0 | (to & 7) << 3 | from & 7, 8]);
        } else {
            self.mov(to, from);
            self.shr(to, 8);
        }
    }

    /// `rdfsbase register`.
    pub fn read_fs_base(&mut self, register: u8) {
        self.bytes(&[0xf3, 0x48 | register >> 3, 0x0f, 0xae, 0xc0 | register & 7]);
    }

    /// `wrfsbase register`.
    pub fn write_fs_base(&mut self, register: u8) {
        self.bytes(&[0xf3, 0x48 | register >> 3, 0x0f, 0xae, 0xd0 | register & 7]);
    }

    /// `lea to, [label]`, whose distance is filled in later.
    pub fn lea_label(&mut self, to: u8, label: Label) {
        self.bytes(&[0x48 | (to >> 3) << 2, 0x8d, (to & 7) << 3 | 5]);
        self.fix_up(label);
    }

    /// `jmp register`.
    pub fn jump_register(&mut self, register: u8) {
        if register >= 8 {
            self.bytes(&[0x41]);
        }
        self.bytes(&[0xff, 0xe0 | register & 7]);
    }

    /// `mov to, from` of 64 bits.
    pub fn mov(&mut self, to: u8, from: u8) {
        self.registers(true, &[0x89], from, to);
    }

    /// `mov to, [mem]` of 64 bits.
    pub fn load(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x8b], to, mem);
    }

    /// `mov to, [mem]`.
    pub fn load_sized(&mut self, wide: bool, to: u8, mem: Mem) {
        self.memory(wide, &[0x8b], to, mem);
    }

    /// `mov to, [mem]` of 32 bits.
    pub fn load_32(&mut self, to: u8, mem: Mem) {
        self.memory(false, &[0x8b], to, mem);
    }

    /// `mov [mem], from` of 64 bits.
    pub fn store(&mut self, mem: Mem, from: u8) {
        self.memory(true, &[0x89], from, mem);
    }

    /// `mov [mem], from` of 32 bits.
    pub fn store_32(&mut self, mem: Mem, from: u8) {
        self.memory(false, &[0x89], from, mem);
    }

    /// `mov qword [mem], imm`, sign-extended.
    pub fn store_imm(&mut self, mem: Mem, value: i32) {
        self.memory(true, &[0xc7], 0, mem);
        self.bytes(&value.to_le_bytes());
    }

    /// `lea to, [mem]`.
    pub fn lea(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x8d], to, mem);
    }

    /// `mov [mem], from`.
    pub fn store_sized(&mut self, wide: bool, mem: Mem, from: u8) {
        self.memory(wide, &[0x89], from, mem);
    }

    /// `lea to, [mem]` of 32 bits.
    pub fn lea_32(&mut self, to: u8, mem: Mem) {
        self.memory(false, &[0x8d], to, mem);
    }

    /// `add to, [mem]`.
    pub fn add_mem(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x03], to, mem);
    }

    /// `sub to, [mem]`.
    pub fn sub_mem(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x2b], to, mem);
    }

    /// `cmp to, [mem]` of 64 bits.
    pub fn cmp_mem(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x3b], to, mem);
    }

    /// `cmp dword [mem], imm32`; the executable address of the operand.
    pub fn cmp_mem_far_32(&mut self, mem: Mem, value: u32) -> u64 {
        self.memory(false, &[0x81], 7, mem);
        let at = self.here();
        self.bytes(&value.to_le_bytes());
        at
    }

    /// `add qword [mem], imm32`, sign-extended.
    pub fn add_to_mem(&mut self, mem: Mem, value: i32) {
        self.memory(true, &[0x81], 0, mem);
        self.bytes(&value.to_le_bytes());
    }

    /// `inc qword [mem]`.
    pub fn increment(&mut self, mem: Mem) {
        self.memory(true, &[0xff], 0, mem);
    }

    /// `add dword [mem], imm32`.
    pub fn add_to_mem_32(&mut self, mem: Mem, value: i32) {
        self.memory(false, &[0x81], 0, mem);
        self.bytes(&value.to_le_bytes());
    }

    /// `add to, [mem]` of 32 bits; the upper half is zeroed.
    pub fn add_mem_32(&mut self, to: u8, mem: Mem) {
        self.memory(false, &[0x03], to, mem);
    }

    /// `and dword [mem], imm32`.
    pub fn and_mem_32(&mut self, mem: Mem, value: u32) {
        self.memory(false, &[0x81], 4, mem);
        self.bytes(&value.to_le_bytes());
    }

    /// `or dword [mem], imm32`.
    pub fn or_mem_32(&mut self, mem: Mem, value: u32) {
        self.memory(false, &[0x81], 1, mem);
        self.bytes(&value.to_le_bytes());
    }

    /// `mov byte [mem], imm8`.
    pub fn store_imm_8(&mut self, mem: Mem, value: u8) {
        self.memory(false, &[0xc6], 0, mem);
        self.bytes(&[value]);
    }

    /// `cmp byte [mem], imm8`.
    pub fn cmp_mem_8(&mut self, mem: Mem, value: u8) {
        self.memory(false, &[0x80], 7, mem);
        self.bytes(&[value]);
    }

    /// `cmp a, b`.
    pub fn cmp(&mut self, wide: bool, a: u8, b: u8) {
        self.registers(wide, &[0x39], b, a);
    }

    /// `cmp register, imm8`.
    pub fn cmp_imm_sized(&mut self, wide: bool, register: u8, value: u8) {
        self.registers(wide, &[0x83], 7, register);
        self.bytes(&[value]);
    }

    /// `sub to, from` of 64 bits.
    pub fn sub(&mut self, to: u8, from: u8) {
        self.registers(true, &[0x29], from, to);
    }

    /// `xor to, from` of 64 bits.
    pub fn xor(&mut self, to: u8, from: u8) {
        self.registers(true, &[0x31], from, to);
    }

    /// `movsxd to, from`.
    pub fn sign_extend(&mut self, to: u8, from: u8) {
        self.registers(true, &[0x63], to, from);
    }

    /// `rep stos`, or `rep movs` with `moves`, of elements of `size` bytes.
    pub fn repeat(&mut self, size: u8, moves: bool) {
        if size == 2 {
            self.bytes(&[0x66]);
        }
        self.bytes(&[0xf3]);
        if size == 8 {
            self.bytes(&[0x48]);
        }
        self.bytes(&[if moves { 0xa4 } else { 0xaa } | u8::from(size > 1)]);
    }

    /// `div divisor` or `idiv divisor`.
    pub fn divide(&mut self, wide: bool, signed: bool, divisor: u8) {
        self.registers(wide, &[0xf7], if signed { 7 } else { 6 }, divisor);
    }

    /// `mov [mem], from` of 8 bits, of registers 8 to 15.
    pub fn store_8(&mut self, mem: Mem, from: u8) {
        self.memory(false, &[0x88], from, mem);
    }

    /// `mov register, [mem]`, or with `store` the other way round, of `size` bytes: the register's others stay as they
    /// are if there are fewer than 4.
    pub fn part(&mut self, size: u8, store: bool, register: u8, mem: Mem) {
        if size == 2 {
            self.bytes(&[0x66]);
        }
        let opcode = 0x8a + u8::from(size > 1) - 2 * u8::from(store);
        self.memory(size == 8, &[opcode], register, mem);
    }

    /// `sar register, count`.
    pub fn sar(&mut self, wide: bool, register: u8, count: u8) {
        self.registers(wide, &[0xc1], 7, register);
        self.bytes(&[count]);
    }

    /// `mov to, from`.
    pub fn mov_sized(&mut self, wide: bool, to: u8, from: u8) {
        self.registers(wide, &[0x89], from, to);
    }

    /// `or to, [mem]` of 64 bits.
    pub fn or_mem(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x0b], to, mem);
    }

    /// `bt [mem], bit` of 64 bits; the bit may lie beyond the operand.
    pub fn bt(&mut self, mem: Mem, bit: u8) {
        self.memory(true, &[0x0f, 0xa3], bit, mem);
    }

    /// `test byte [mem], imm8`.
    pub fn test_mem_8(&mut self, mem: Mem, value: u8) {
        self.memory(false, &[0xf6], 0, mem);
        self.bytes(&[value]);
    }

    /// `movzx to, byte [mem]`.
    pub fn load_byte(&mut self, to: u8, mem: Mem) {
        self.memory(false, &[0x0f, 0xb6], to, mem);
    }

    /// `movzx to, word [mem]`.
    pub fn load_16(&mut self, to: u8, mem: Mem) {
        self.memory(false, &[0x0f, 0xb7], to, mem);
    }

    /// `fldcw [mem]`.
    pub fn load_control_word(&mut self, mem: Mem) {
        self.memory(false, &[0xd9], 5, mem);
    }

    /// `xrstor64 [mem]`.
    pub fn restore_extended(&mut self, mem: Mem) {
        self.memory(true, &[0x0f, 0xae], 5, mem);
    }

    /// `xsave64 [mem]`.
    pub fn save_extended(&mut self, mem: Mem) {
        self.memory(true, &[0x0f, 0xae], 4, mem);
    }

    /// `lock bts [mem], bit` of 64 bits; the bit may lie beyond the operand.
    pub fn lock_bts(&mut self, mem: Mem, bit: u8) {
        self.bytes(&[0xf0]);
        self.memory(true, &[0x0f, 0xab], bit, mem);
    }

    /// `cmp dword [mem], imm8`.
    pub fn cmp_mem_imm_32(&mut self, mem: Mem, value: u8) {
        self.memory(false, &[0x83], 7, mem);
        self.bytes(&[value]);
    }

    /// `mov dword [mem], imm32`.
    pub fn store_imm_32(&mut self, mem: Mem, value: i32) {
        self.memory(false, &[0xc7], 0, mem);
        self.bytes(&value.to_le_bytes());
    }

    /// `test register, imm8` of 8 bits, of registers 8 to 15.
    pub fn test_imm_8(&mut self, register: u8, value: u8) {
        self.bytes(&[0x41, 0xf6, 0xc0 | register & 7, value]);
    }

    /// `jmp [mem]`.
    pub fn jump_mem(&mut self, mem: Mem) {
        self.memory(false, &[0xff], 4, mem);
    }

    /// `cmp register, imm32` of 64 bits.
    pub fn cmp_imm(&mut self, register: u8, value: i32) {
        self.registers(true, &[0x81], 7, register);
        self.bytes(&value.to_le_bytes());
    }

    /// `and register, imm32` of 32 bits; the upper half is zeroed.
    pub fn and_imm_32(&mut self, register: u8, value: i32) {
        self.registers(false, &[0x81], 4, register);
        self.bytes(&value.to_le_bytes());
    }

    /// `and to, [mem]` of 64 bits.
    pub fn and_mem(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x23], to, mem);
    }

    /// `xor to, from` of 32 bits; the upper half is zeroed.
    pub fn xor_32(&mut self, to: u8, from: u8) {
        self.registers(false, &[0x31], from, to);
    }

    /// `mov to, from` of 32 bits; the upper half is zeroed.
    pub fn mov_32(&mut self, to: u8, from: u8) {
        self.registers(false, &[0x89], from, to);
    }

    /// `and register, imm32` of 64 bits, sign-extended.
    pub fn and_imm(&mut self, register: u8, value: i32) {
        self.registers(true, &[0x81], 4, register);
        self.bytes(&value.to_le_bytes());
    }

    /// `shr register, count` of 64 bits.
    pub fn shr(&mut self, register: u8, count: u8) {
        self.registers(true, &[0xc1], 5, register);
        self.bytes(&[count]);
    }

    /// `lfence`.
    pub fn load_fence(&mut self) {
        self.bytes(&[0x0f, 0xae, 0xe8]);
    }

    /// `rdtsc`.
    pub fn read_time(&mut self) {
        self.bytes(&[0x0f, 0x31]);
    }

    /// `shl register, count` of 64 bits.
    pub fn shl(&mut self, register: u8, count: u8) {
        self.registers(true, &[0xc1], 4, register);
        self.bytes(&[count]);
    }

    /// `shl register, count` of 32 bits.
    pub fn shl_32(&mut self, register: u8, count: u8) {
        self.registers(false, &[0xc1], 4, register);
        self.bytes(&[count]);
    }

    /// `mov register, imm64`, as short as it goes.
    pub fn mov_imm(&mut self, register: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if register >= 8 {
                self.bytes(&[0x41]);
            }
            self.bytes(&[0xb8 | register & 7]);
            self.bytes(&value.to_le_bytes());
        } else {
            self.mov_imm_64(register, value);
        }
    }

    /// `mov register, imm64`, in full; the address of the operand.
    pub fn mov_imm_64(&mut self, register: u8, value: u64) -> u64 {
        self.bytes(&[0x48 | register >> 3, 0xb8 | register & 7]);
        let at = self.here();
        self.bytes(&value.to_le_bytes());
        at
    }

    /// `jcc label`; the executable address of the distance.
    pub fn jump_if(&mut self, condition: u8, label: Label) -> u64 {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.fix_up(label)
    }

    /// `jmp label`; the executable address of the distance.
    pub fn jump(&mut self, label: Label) -> u64 {
        self.bytes(&[0xe9]);
        self.fix_up(label)
    }

    fn fix_up(&mut self, label: Label) -> u64 {
        let at = self.here();
        self.buffers.fixups.push((self.buffers.code.len(), label.0));
        self.bytes(&[0; 4]);
        at
    }

    /// `jmp` to an executable address in reach.
    pub fn jump_to(&mut self, target: u64) {
        self.bytes(&[0xe9]);
        self.distance(target);
    }

    /// `call` of an executable address in reach.
    pub fn call_to(&mut self, target: u64) {
        self.bytes(&[0xe8]);
        self.distance(target);
    }

    fn distance(&mut self, target: u64) {
        self.buffers.reaches.push(self.buffers.code.len() as u32);
        let distance = target.wrapping_sub(self.here() + 4) as u32;
        self.bytes(&distance.to_le_bytes());
    }
}

/// Condition codes of `jcc`.
pub mod condition {
    pub const BELOW: u8 = 2;
    pub const ABOVE_OR_EQUAL: u8 = 3;
    pub const BELOW_OR_EQUAL: u8 = 6;
    pub const EQUAL: u8 = 4;
    pub const NOT_EQUAL: u8 = 5;
    pub const ABOVE: u8 = 7;
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    fn text(write: impl FnOnce(&mut Emitter)) -> String {
        let mut emitter = Emitter::new(0x1000);
        write(&mut emitter);
        let code = emitter.finish().code;
        let mut text = String::new();
        let mut decoder = Decoder::with_ip(64, &code, 0x1000, DecoderOptions::NONE);
        while decoder.can_decode() {
            IntelFormatter::new().format(&decoder.decode(), &mut text);
            text.push(';');
        }
        text
    }

    #[test]
    fn hand_written_forms_decode_to_what_they_say() {
        assert_eq!(text(|e| e.load(13, Mem::state(0x128))), "mov r13,gs:[128h];");
        assert_eq!(text(|e| e.increment(Mem::state(0x128))), "inc qword ptr gs:[128h];");
        assert_eq!(text(|e| e.lea(13, Mem::base(13, 0))), "lea r13,[r13];");
        assert_eq!(text(|e| e.lea(14, Mem::indexed(Some(12), 15, 3, -8))), "lea r14,[r12+r15*8-8];");
        assert_eq!(text(|e| e.sub_mem(13, Mem::base(14, 0))), "sub r13,[r14];");
        assert_eq!(text(|e| e.and_imm_32(14, 0xffe0)), "and r14d,0FFE0h;");
        assert_eq!(text(|e| e.store_imm(Mem::base(13, 0), -1)), "mov qword ptr [r13],0FFFFFFFFFFFFFFFFh;");
        assert_eq!(text(|e| e.mov_imm(13, 7)), "mov r13d,7;");
        assert_eq!(text(|e| e.jump_mem(Mem::base(14, 16))), "jmp qword ptr [r14+10h];");
        assert_eq!(text(|e| e.shift_right_8(14, 13, true)), "rorx r14,r13,8;");
        assert_eq!(text(|e| e.sub_mem(13, Mem::tables(14, 0))), "sub r13,fs:[r14];");
        assert_eq!(text(|e| e.write_fs_base(13)), "wrfsbase r13;");
        assert_eq!(text(|e| e.read_fs_base(0)), "rdfsbase rax;");
        assert_eq!(text(|e| e.lea(4, Mem::base(4, -8))), "lea rsp,[rsp-8];");
        assert_eq!(text(|e| e.lock_bts(Mem::base(2, 0), 0)), "lock bts [rdx],rax;");
        assert_eq!(text(|e| e.jump_register(14)), "jmp r14;");
        assert_eq!(text(|e| e.cmp_mem_imm_32(Mem::base(14, 0), 0)), "cmp dword ptr [r14],0;");
    }

    #[test]
    fn jumps_to_labels_are_filled_in() {
        let code = text(|e| {
            let label = e.label();
            e.jump_if(condition::ABOVE, label);
            e.bytes(&[0x90]);
            e.bind(label);
            e.bytes(&[0xc3]);
        });
        assert_eq!(code, "ja 0000000000001007h;nop;ret;");
    }
}
