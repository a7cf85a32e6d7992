//! All that is unsafe: ioctls that `kvm-ioctls` does not have, the page that a virtual processor shares with the
//! kernel, and the signal that brings a processor's thread back from there.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use guest_memory::{Attributes, GuestMemory, SHADOW, SHADOW_SEGMENT, SHADOW_SEGMENTS, Shadow, WriteTracker};
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL,
    KVM_EXIT_HYPERV_SYNIC, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN,
    KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT,
    KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_HYPERV_EVENTFD_DEASSIGN, KVM_IRQ_ROUTING_HV_SINT,
    KVM_IRQ_ROUTING_MSI, KVM_MEM_READONLY, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO,
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_cpuid2, kvm_device_attr, kvm_interrupt,
    kvm_irq_routing_entry, kvm_irq_routing_hv_sint, kvm_irq_routing_msi, kvm_run,
    kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ptr, ioctl_with_ref};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

/// `struct kvm_hyperv_eventfd` of *include/uapi/linux/kvm.h*.
#[repr(C)]
#[derive(Default)]
struct HypervEventfd {
    connection: u32,
    fd: i32,
    flags: u32,
    padding: [u32; 3],
}

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
ioctl_iow_nr!(KVM_HYPERV_EVENTFD, KVMIO, 0xbd, HypervEventfd);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);

fn result(value: i32) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether `kvm` speaks the API that has not changed since 2007.
pub fn speaks_kvm(kvm: &Kvm) -> bool {
    kvm.get_api_version() == KVM_API_VERSION as i32
}

/// The leaves of the hypervisor interface that the kernel supports (`KVM_GET_SUPPORTED_HV_CPUID` of the system).
pub fn supported_hypervisor_leaves(kvm: &Kvm) -> io::Result<CpuId> {
    /// There are ten or so.
    const ENTRIES: usize = 32;
    let mut leaves = CpuId::new(ENTRIES).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // SAFETY: the structure says how many entries it has room for, and the kernel writes no more than that.
    result(unsafe { ioctl_with_mut_ptr(kvm, KVM_GET_SUPPORTED_HV_CPUID(), leaves.as_mut_fam_struct_ptr()) })?;
    Ok(leaves)
}

/// The legacy video window, which belongs to devices. The addresses behind it are [`SHADOW`].
const VIDEO_START: u64 = 0xa_0000;

/// A stretch of guest memory that KVM knows by a number of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub number: u32,
    /// Guest physical address and size in bytes.
    pub start: u64,
    pub size: u64,
    pub read_only: bool,
    host: u64,
}

/// Slots before those of [`SHADOW`].
const ROM_SLOTS: u32 = 1;
/// Slots before those of RAM, which may become more.
const FIRST_SLOTS: u32 = ROM_SLOTS + SHADOW_SEGMENTS as u32;

/// The slots of guest RAM: all regions of `memory`, but for the legacy video window and [`SHADOW`].
pub fn ram_slots(memory: &GuestMemory) -> Vec<Slot> {
    let mut slots = Vec::new();
    for region in memory.iter() {
        let (start, host) = (region.start_addr().raw_value(), region.as_ptr() as u64);
        let end = start + region.len();
        let mut add = |from: u64, to: u64| {
            let number = FIRST_SLOTS + slots.len() as u32;
            let host = host + (from - start);
            slots.push(Slot { number, start: from, size: to - from, read_only: false, host });
        };
        if has_shadow(region) {
            add(start, VIDEO_START);
            if SHADOW.end < end {
                add(SHADOW.end, end);
            }
        } else {
            add(start, end);
        }
    }
    slots
}

/// Whether there is RAM up to 1 MiB and not just to somewhere below.
fn has_shadow(region: &GuestRegionMmap<WriteTracker>) -> bool {
    let start = region.start_addr().raw_value();
    start < VIDEO_START && SHADOW.end <= start + region.len()
}

/// The slots at [`SHADOW`], as it is steered now: none where a processor finds neither RAM nor ROM. Neighbours that are
/// alike share one.
pub fn shadow_slots(memory: &GuestMemory, shadow: &Shadow) -> Vec<Slot> {
    let Some(region) = memory.iter().find(|region| has_shadow(region)) else { return Vec::new() };
    let ram = region.as_ptr() as u64 - region.start_addr().raw_value();
    let mut slots: Vec<Slot> = Vec::new();
    for (index, attributes) in (0_u32..).zip(shadow.all()) {
        let start = SHADOW.start + u64::from(index) * SHADOW_SEGMENT;
        let host = if attributes.read { ram + start } else { shadow.rom_pointer(start) as u64 };
        if host == 0 {
            continue;
        }
        let read_only = attributes != Attributes::RAM;
        match slots.last_mut() {
            Some(last)
                if last.start + last.size == start
                    && last.host + last.size == host
                    && last.read_only == read_only =>
            {
                last.size += SHADOW_SEGMENT;
            }
            _ => slots.push(Slot { number: ROM_SLOTS + index, start, size: SHADOW_SEGMENT, read_only, host }),
        }
    }
    slots
}

/// Makes `slots` the guest's, with `flags` such as KVM_MEM_LOG_DIRTY_PAGES for those that it may write; or changes the
/// flags, if they are already.
///
/// The caller keeps the memory behind them for as long as `vm`.
pub fn map(vm: &VmFd, slots: &[Slot], flags: u32) -> io::Result<()> {
    slots
        .iter()
        .try_for_each(|slot| map_slot(vm, slot, if slot.read_only { KVM_MEM_READONLY } else { flags }))
}

/// Takes `slots`, which are the guest's, away from it.
pub fn unmap(vm: &VmFd, slots: &[Slot]) -> io::Result<()> {
    slots.iter().try_for_each(|slot| map_slot(vm, &Slot { size: 0, ..slot.clone() }, 0))
}

/// The slots of `rom`, for reading.
pub fn rom_slots(rom: &GuestMemory) -> Vec<Slot> {
    let slot = |(number, region): (u32, &GuestRegionMmap<WriteTracker>)| {
        let (start, size, host) = (region.start_addr().raw_value(), region.len(), region.as_ptr() as u64);
        Slot { number, start, size, read_only: true, host }
    };
    (0..ROM_SLOTS).zip(rom.iter()).map(slot).collect()
}

fn map_slot(vm: &VmFd, slot: &Slot, flags: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot: slot.number,
        flags,
        guest_phys_addr: slot.start,
        memory_size: slot.size,
        userspace_addr: slot.host,
    };
    // SAFETY: a slot is made above of a mapping of that length, and whoever has the machine keeps it while `vm` exists.
    // What the guest does to it, it may: the host looks at it by volatile or atomic accesses only.
    unsafe { vm.set_user_memory_region(region) }.map_err(io::Error::from)
}

/// Has KVM note anew the pages of `slot` whose bits are set in `bitmap`, a bit for each of its `pages`. For machines with
/// manual protection.
pub fn clear_dirty_log(vm: &VmFd, slot: u32, pages: u32, bitmap: &mut [u64]) -> io::Result<()> {
    if bitmap.len() < (pages as usize).div_ceil(64) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let dirty_bitmap = bitmap.as_mut_ptr().cast();
    let request = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: 0,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap },
    };
    // SAFETY: the kernel reads the structure and as many bits of the bitmap as there are pages, for which it has room.
    result(unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &request) })
}

/// Sets x87, vector and further extension registers.
pub fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> io::Result<()> {
    // SAFETY: the kernel reads 4096 bytes, which the structure has; extension states beyond are not enabled for any
    // process.
    unsafe { vcpu.set_xsave(xsave) }.map_err(io::Error::from)
}

/// Lets the guest's signals to `connection` write to `fd` and nothing else.
pub fn bind_eventfd(vm: &VmFd, connection: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
    let request = HypervEventfd { connection, fd: fd.as_raw_fd(), ..HypervEventfd::default() };
    // SAFETY: the kernel reads the structure and takes a reference of its own to the eventfd.
    result(unsafe { ioctl_with_ref(vm, KVM_HYPERV_EVENTFD(), &request) })
}

/// Undoes [`bind_eventfd`].
pub fn unbind_eventfd(vm: &VmFd, connection: u32) -> io::Result<()> {
    let request = HypervEventfd { connection, fd: -1, flags: KVM_HYPERV_EVENTFD_DEASSIGN, padding: [0; 3] };
    // SAFETY: the kernel reads the structure.
    result(unsafe { ioctl_with_ref(vm, KVM_HYPERV_EVENTFD(), &request) })
}

/// An entry of the table of interrupt routes: `gsi` is a message.
pub fn message_route(gsi: u32, address: u64, data: u32) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: address as u32,
        address_hi: (address >> 32) as u32,
        data,
        ..kvm_irq_routing_msi::default()
    };
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = msi;
    entry
}

/// An entry of the table of interrupt routes: `gsi` is source `sint` of processor `vp`.
pub fn sint_route(gsi: u32, vp: u32, sint: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_HV_SINT, ..Default::default() };
    entry.u.hv_sint = kvm_irq_routing_hv_sint { vcpu: vp, sint };
    entry
}

/// The signal that brings a thread back from the guest.
fn kick_signal() -> io::Result<i32> {
    static SIGNAL: OnceLock<Result<i32, i32>> = OnceLock::new();
    extern "C" fn nothing(_signal: i32, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {}
    let signal = SIGNAL.get_or_init(|| {
        let signal = SIGRTMIN();
        register_signal_handler(signal, nothing).map(|()| signal).map_err(|error| error.errno())
    });
    signal.map_err(io::Error::from_raw_os_error)
}

/// A virtual processor of the kernel, with the page that it shares with us.
pub struct SharedVcpu {
    fd: VcpuFd,
    page: NonNull<kvm_run>,
    page_size: usize,
    /// Thread that is in [`Runner::run`] or about to be; 0 if none.
    thread: AtomicI32,
    reset: AtomicBool,
    messages: AtomicBool,
    signal: i32,
}

// SAFETY: the page is mapped for as long as `fd` exists. Other threads than the processor's reach of it only
// `immediate_exit`, atomically; `fd` is a file descriptor.
unsafe impl Send for SharedVcpu {}
// SAFETY: as above.
unsafe impl Sync for SharedVcpu {}

impl SharedVcpu {
    /// Shares `fd` between the processor's thread, which gets the [`Runner`], and those who kick it. `page_size`
    /// is that of the shared page, as the kernel says it.
    pub fn new(mut fd: VcpuFd, page_size: usize) -> io::Result<(Arc<Self>, Runner)> {
        let page = NonNull::from(fd.get_kvm_run());
        let signal = kick_signal()?;
        let vcpu = Arc::new(Self {
            fd,
            page,
            page_size,
            thread: AtomicI32::new(0),
            reset: AtomicBool::new(false),
            messages: AtomicBool::new(false),
            signal,
        });
        Ok((Arc::clone(&vcpu), Runner { vcpu }))
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte is within the page, which lives as long as `self`, and the kernel only reads it.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.page.as_ptr()).immediate_exit) }
    }

    /// Makes the processor's thread come back from the guest, or not enter it again before
    /// [`Runner::accept_kicks`].
    pub fn kick(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a system call without pointers. If the thread has gone meanwhile, nothing happens, or another
            // thread of this process carries out a handler that does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, self.signal) };
        }
    }

    /// Whether a thread runs the processor, be it that it sleeps in the kernel.
    pub fn has_thread(&self) -> bool {
        self.thread.load(Ordering::SeqCst) != 0
    }

    /// Asks for a power-on reset before the processor runs again.
    pub fn ask_reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    /// Whether one has been asked for; once.
    pub fn take_reset(&self) -> bool {
        self.reset.swap(false, Ordering::SeqCst)
    }

    /// Makes the processor's thread come back from the guest to put messages into their slots.
    pub fn ask_delivery(&self) {
        self.messages.store(true, Ordering::SeqCst);
        self.kick();
    }

    /// Whether that has been asked for; once.
    pub fn take_delivery(&self) -> bool {
        self.messages.swap(false, Ordering::SeqCst)
    }

    /// What to add to the host's TSC to get the guest's. False if this kernel has no such attribute.
    pub fn set_tsc_offset(&self, offset: u64) -> io::Result<bool> {
        let attribute = kvm_device_attr {
            group: KVM_VCPU_TSC_CTRL,
            attr: u64::from(KVM_VCPU_TSC_OFFSET),
            addr: (&raw const offset) as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads the structure.
        if unsafe { ioctl_with_ref(&self.fd, KVM_HAS_DEVICE_ATTR(), &attribute) } < 0 {
            return Ok(false);
        }
        // SAFETY: the kernel reads the structure and the eight bytes at `addr`, which are `offset`.
        result(unsafe { ioctl_with_ref(&self.fd, KVM_SET_DEVICE_ATTR(), &attribute) })?;
        Ok(true)
    }

    /// The kernel's processor, for ioctls. They wait while it runs.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }
}

/// Why a virtual processor came back, with what the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmExit {
    /// A signal, or an attention that [`SharedVcpu::kick`] asked for.
    Interrupted,
    /// An access to a port, `count` times `size` bytes: [`Runner::port_data`].
    Port { port: u16, size: usize, write: bool },
    /// An access to memory that is not RAM: [`Runner::memory_data`].
    Memory { gpa: u64, write: bool },
    /// RDMSR that KVM does not answer.
    ReadMsr { index: u32 },
    /// WRMSR that KVM does not answer.
    WriteMsr { index: u32, value: u64 },
    /// A register of the synthetic interrupt controller has been written.
    Synic { msr: u32, control: u64, event_page: u64, message_page: u64 },
    /// A hypercall that KVM leaves to us.
    Hypercall { input: u64, parameters: [u64; 2] },
    /// A level-triggered interrupt of the IOAPIC has been ended.
    EndOfInterrupt { vector: u8 },
    /// The interrupt that waits can be delivered now.
    InterruptWindow,
    /// Triple fault.
    Shutdown,
    /// The processor refuses the guest's state.
    FailedEntry { reason: u64 },
    /// KVM cannot go on.
    InternalError { suberror: u32, data: Vec<u64> },
    /// KVM_SYSTEM_EVENT_*.
    SystemEvent { kind: u32 },
    /// #BP or #DB, at a linear address, with the reasons as DR6 has them.
    Debug { exception: u32, pc: u64, dr6: u64 },
    /// Something that KVM should not do as it is set up.
    Unexpected { reason: u32 },
}

impl KvmExit {
    /// Whether the guest's instruction is not done before the next run.
    pub fn is_within_an_instruction(&self) -> bool {
        matches!(
            self,
            Self::Port { .. }
                | Self::Memory { .. }
                | Self::ReadMsr { .. }
                | Self::WriteMsr { .. }
                | Self::Hypercall { .. }
        )
    }
}

/// The right to run a virtual processor. There is one for each.
pub struct Runner {
    vcpu: Arc<SharedVcpu>,
}

impl Runner {
    /// The processor, for ioctls.
    pub fn vcpu(&self) -> &Arc<SharedVcpu> {
        &self.vcpu
    }

    /// Says that this thread is the processor's from now on.
    pub fn enter(&mut self) {
        // SAFETY: a system call without arguments.
        let thread = unsafe { libc::gettid() };
        self.vcpu.thread.store(thread, Ordering::SeqCst);
    }

    /// Says that it is no more.
    pub fn leave(&mut self) {
        self.vcpu.thread.store(0, Ordering::SeqCst);
    }

    /// Kicks before this are answered by what the caller does next.
    pub fn accept_kicks(&mut self) {
        self.vcpu.immediate_exit().store(0, Ordering::SeqCst);
    }

    fn page(&self) -> &kvm_run {
        // SAFETY: the page is mapped while `vcpu` lives; the kernel writes it during KVM_RUN only, which takes
        // `&mut self`. Others write `immediate_exit`, which is not read through this reference.
        unsafe { self.vcpu.page.as_ref() }
    }

    fn page_mut(&mut self) -> &mut kvm_run {
        // SAFETY: as for `page`; this is the only `Runner` of the processor.
        unsafe { &mut *self.vcpu.page.as_ptr() }
    }

    /// Whether KVM_INTERRUPT would be accepted now.
    pub fn ready_for_interrupt(&self) -> bool {
        self.page().ready_for_interrupt_injection != 0
    }

    /// Asks for [`KvmExit::InterruptWindow`], or not.
    pub fn request_interrupt_window(&mut self, wanted: bool) {
        self.page_mut().request_interrupt_window = wanted.into();
    }

    /// Delivers an interrupt of the 8259s.
    pub fn inject(&mut self, vector: u8) -> io::Result<()> {
        let interrupt = kvm_interrupt { irq: vector.into() };
        // SAFETY: the kernel reads the structure.
        result(unsafe { ioctl_with_ref(&self.vcpu.fd, KVM_INTERRUPT(), &interrupt) })
    }

    /// Runs the guest until KVM wants something of us.
    pub fn run(&mut self) -> io::Result<KvmExit> {
        // SAFETY: KVM_RUN has no argument; the page it writes is ours alone meanwhile, see `page`.
        let value = unsafe { ioctl(&self.vcpu.fd, KVM_RUN()) };
        if value < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // EAGAIN: a processor that waits for its start-up has been asked to come and look.
                Some(libc::EINTR | libc::EAGAIN) => Ok(KvmExit::Interrupted),
                _ => Err(error),
            };
        }
        Ok(self.exit())
    }

    fn exit(&self) -> KvmExit {
        let page = self.page();
        let details = &page.__bindgen_anon_1;
        // SAFETY: the exit reason says which member of the union the kernel has filled in; all members are plain
        // integers, for which any bits do.
        unsafe {
            match page.exit_reason {
                KVM_EXIT_IO => {
                    let io = details.io;
                    let write = u32::from(io.direction) != KVM_EXIT_IO_IN;
                    KvmExit::Port { port: io.port, size: usize::from(io.size), write }
                }
                KVM_EXIT_MMIO => {
                    KvmExit::Memory { gpa: details.mmio.phys_addr, write: details.mmio.is_write != 0 }
                }
                KVM_EXIT_X86_RDMSR => KvmExit::ReadMsr { index: details.msr.index },
                KVM_EXIT_X86_WRMSR => KvmExit::WriteMsr { index: details.msr.index, value: details.msr.data },
                KVM_EXIT_HYPERV => match details.hyperv.type_ {
                    KVM_EXIT_HYPERV_SYNIC => {
                        let synic = details.hyperv.u.synic;
                        KvmExit::Synic {
                            msr: synic.msr,
                            control: synic.control,
                            event_page: synic.evt_page,
                            message_page: synic.msg_page,
                        }
                    }
                    KVM_EXIT_HYPERV_HCALL => {
                        let call = details.hyperv.u.hcall;
                        KvmExit::Hypercall { input: call.input, parameters: call.params }
                    }
                    _ => KvmExit::Unexpected { reason: KVM_EXIT_HYPERV },
                },
                KVM_EXIT_IOAPIC_EOI => KvmExit::EndOfInterrupt { vector: details.eoi.vector },
                KVM_EXIT_IRQ_WINDOW_OPEN => KvmExit::InterruptWindow,
                KVM_EXIT_INTR => KvmExit::Interrupted,
                KVM_EXIT_SHUTDOWN => KvmExit::Shutdown,
                KVM_EXIT_FAIL_ENTRY => {
                    KvmExit::FailedEntry { reason: details.fail_entry.hardware_entry_failure_reason }
                }
                KVM_EXIT_INTERNAL_ERROR => {
                    let error = details.internal;
                    let count = usize::try_from(error.ndata).unwrap_or(usize::MAX);
                    let data = error.data.iter().take(count).copied().collect();
                    KvmExit::InternalError { suberror: error.suberror, data }
                }
                KVM_EXIT_SYSTEM_EVENT => KvmExit::SystemEvent { kind: details.system_event.type_ },
                KVM_EXIT_DEBUG => {
                    let debug = details.debug.arch;
                    KvmExit::Debug { exception: debug.exception, pc: debug.pc, dr6: debug.dr6 }
                }
                reason => KvmExit::Unexpected { reason },
            }
        }
    }

    /// The bytes of a [`KvmExit::Port`]: what is written, or the place for what is read.
    pub fn port_data(&mut self) -> &mut [u8] {
        let size = self.vcpu.page_size;
        // SAFETY: asked after a port exit, for which the kernel has filled in `io`.
        let io = unsafe { self.page().__bindgen_anon_1.io };
        let length = usize::from(io.size).saturating_mul(io.count as usize);
        let offset = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return &mut [];
        }
        // SAFETY: the range is within the mapping, which has `page_size` bytes, and behind `kvm_run` itself; the
        // kernel uses it during KVM_RUN only, for which this borrow has to end.
        unsafe { std::slice::from_raw_parts_mut(self.vcpu.page.as_ptr().cast::<u8>().add(offset), length) }
    }

    /// The bytes of a [`KvmExit::Memory`].
    pub fn memory_data(&mut self) -> &mut [u8] {
        // SAFETY: asked after a memory exit, for which the kernel has filled in `mmio`.
        let mmio = unsafe { &mut self.page_mut().__bindgen_anon_1.mmio };
        let length = mmio.data.len().min(mmio.len as usize);
        &mut mmio.data[..length]
    }

    /// Answers a [`KvmExit::ReadMsr`] or [`KvmExit::WriteMsr`]; `None` raises #GP.
    pub fn answer_msr(&mut self, value: Option<u64>) {
        // SAFETY: asked after an MSR exit, for which the kernel has filled in `msr`.
        let msr = unsafe { &mut self.page_mut().__bindgen_anon_1.msr };
        msr.error = value.is_none().into();
        msr.data = value.unwrap_or(msr.data);
    }

    /// Answers a [`KvmExit::Hypercall`].
    pub fn answer_hypercall(&mut self, result: u64) {
        self.page_mut().__bindgen_anon_1.hyperv.u.hcall.result = result;
    }
}
