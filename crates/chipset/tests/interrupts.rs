//! Interrupts on their whole way: from devices through the controllers to processors and back, wired as a
//! machine wires them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use chipset::apic::ApicBus;
use chipset::ioapic::IoApic;
use chipset::line::FanOut;
use chipset::pci::{FunctionAddress, IOAPIC_PINS, InterruptRouter};
use chipset::pic::Pic;
use chipset::pit::Pit;
use chipset::{MmioDevice, PortDevice};
use clock::{Clock, FakeClock, FakeTimers};
use interrupt::{LocalApic, MessageTarget, ProcessorSignal, SharedLine, Trigger};

#[derive(Default)]
struct Processor {
    woken: AtomicBool,
    nmis: AtomicU32,
}

impl ProcessorSignal for Processor {
    fn interrupt(&self) {
        self.woken.store(true, Ordering::SeqCst);
    }
    fn nmi(&self) {
        self.nmis.fetch_add(1, Ordering::SeqCst);
    }
    fn init(&self) {}
    fn startup(&self, _vector: u8) {}
}

struct Machine {
    timers: Arc<FakeTimers>,
    apics: Arc<ApicBus>,
    pic: Arc<Pic>,
    ioapic: Arc<IoApic>,
    pit: Arc<Mutex<Pit>>,
    router: Arc<InterruptRouter>,
    processors: Vec<Arc<Processor>>,
}

const SPURIOUS: u32 = 0xf0;
const LVT_LINT0: u32 = 0x350;

impl Machine {
    fn new(processors: u32) -> Self {
        let clock = FakeClock::new();
        let timers = FakeTimers::new(clock.clone());
        let clock: Arc<dyn Clock> = clock;
        let ids: Vec<u32> = (0..processors).collect();
        let apics = ApicBus::new(&ids, &clock, &*timers);
        let pic = Pic::new(apics.apic(0).unwrap().lint(0));
        let ioapic = IoApic::new(apics.clone());
        apics.connect_external(pic.clone());
        apics.connect_eoi_listener(ioapic.clone());
        let isa: Vec<_> = (0..16)
            .map(|irq| {
                let pin = if irq == 0 { 2 } else { irq };
                SharedLine::new(Arc::new(FanOut::new(vec![pic.line(irq), ioapic.line(pin)])))
            })
            .collect();
        let pit = Pit::new(clock, &*timers, isa[0].driver());
        let router = InterruptRouter::new(
            std::array::from_fn(|irq| isa[irq].driver()),
            IOAPIC_PINS.map(|pin| ioapic.line(pin)),
        );
        let processors: Vec<_> = ids.iter().map(|_| Arc::new(Processor::default())).collect();
        for (apic, processor) in apics.apics().iter().zip(&processors) {
            apic.connect_processor(processor.clone());
        }
        Self { timers, apics, pic, ioapic, pit, router, processors }
    }

    fn apic(&self, index: usize) -> &dyn LocalApic {
        &**self.apics.apic(index).unwrap()
    }

    fn enable_apics(&self) {
        self.apics.apics().iter().for_each(|apic| apic.write(SPURIOUS, 0x1ff));
    }

    /// Initialises the 8259s as firmware and kernels do, with everything but `unmasked` masked.
    fn initialize_pic(&self, unmasked: u16) {
        let mut pic = self.pic.clone();
        let [master, slave] = (!unmasked).to_le_bytes();
        for (port, base, wiring, mask) in [(0x20, 0x30, 4, master), (0xa0, 0x38, 2, slave)] {
            pic.port_write(port, &[0x11]);
            [base, wiring, 0x01, mask].into_iter().for_each(|value| pic.port_write(port + 1, &[value]));
        }
    }

    fn redirect(&self, pin: u8, low: u32, destination: u8) {
        let mut ioapic = self.ioapic.clone();
        for (register, value) in [(0x11 + 2 * pin, u32::from(destination) << 24), (0x10 + 2 * pin, low)] {
            ioapic.memory_write(0x00, &u32::from(register).to_le_bytes());
            ioapic.memory_write(0x10, &value.to_le_bytes());
        }
    }

    fn start_ticks(&self) {
        let mut pit = self.pit.lock().unwrap();
        pit.port_write(0x43, &[0x34]);
        pit.port_write(0x40, &[0x9c]);
        pit.port_write(0x40, &[0x2e]);
    }

    fn tick(&self) {
        self.timers.advance(10_000_200);
    }
}

#[test]
fn the_tick_comes_through_the_pic_before_a_kernel_knows_apics() {
    let machine = Machine::new(1);
    machine.initialize_pic(1 << 0);
    machine.start_ticks();
    machine.tick();
    let apic = machine.apic(0);
    for _ in 0..3 {
        machine.tick();
        assert!(machine.processors[0].woken.swap(false, Ordering::SeqCst) && apic.pending());
        assert_eq!(apic.acknowledge(), Some(0x30));
        assert!(!apic.pending());
        machine.pic.clone().port_write(0x20, &[0x20]);
        machine.tick();
        apic.acknowledge();
        machine.pic.clone().port_write(0x20, &[0x20]);
    }
}

#[test]
fn the_tick_comes_through_input_2_of_the_ioapic() {
    let machine = Machine::new(2);
    machine.initialize_pic(0);
    machine.enable_apics();
    machine.apic(0).write(LVT_LINT0, 0x1_0700);
    machine.redirect(2, 0x30, 1);
    machine.start_ticks();
    for _ in 0..3 {
        machine.tick();
        assert_eq!(machine.apic(1).acknowledge(), Some(0x30));
        machine.apic(1).end_of_interrupt();
    }
    assert!(!machine.apic(0).pending());
}

#[test]
fn a_pci_interrupt_comes_again_until_the_device_lets_go() {
    let machine = Machine::new(1);
    machine.initialize_pic(0);
    machine.enable_apics();
    let line = machine.router.line(FunctionAddress::new(4, 0), 0);
    machine.redirect(IOAPIC_PINS[3], 0x8000 | 0x61, 0);
    line.set(true);
    for _ in 0..3 {
        assert_eq!(machine.apic(0).acknowledge(), Some(0x61));
        assert!(!machine.apic(0).pending());
        machine.apic(0).end_of_interrupt();
    }
    machine.apic(0).acknowledge();
    line.set(false);
    machine.apic(0).end_of_interrupt();
    assert!(!machine.apic(0).pending());
}

#[test]
fn a_pci_interrupt_reaches_a_kernel_without_ioapic() {
    let machine = Machine::new(1);
    machine.initialize_pic(1 << 11 | 1 << 10 | 1 << 2);
    machine.router.line(FunctionAddress::new(5, 0), 0).set(true);
    assert_eq!(machine.apic(0).acknowledge(), Some(0x3a));
}

/// Devices, processors and messages at once: the order of locks holds, and no interrupt is lost.
#[test]
fn nothing_locks_up_and_nothing_is_lost_when_all_are_busy() {
    const EDGES: u32 = 20_000;
    let machine = Machine::new(2);
    machine.initialize_pic(0x0002);
    machine.enable_apics();
    machine.apic(0).write(LVT_LINT0, 0x700);
    machine.redirect(4, 0x41, 1);
    machine.redirect(IOAPIC_PINS[0], 0x8000 | 0x61, 0);
    let pci = machine.router.line(FunctionAddress::new(5, 0), 0);
    let (keyboard, serial) = (machine.pic.line(1), machine.ioapic.line(4));
    let (pci_served, done) = (AtomicU32::new(0), AtomicBool::new(false));

    std::thread::scope(|scope| {
        for index in 0..2 {
            let (machine, pci, pci_served, done) = (&machine, &pci, &pci_served, &done);
            scope.spawn(move || {
                let apic = machine.apic(index);
                while !done.load(Ordering::SeqCst) || apic.pending() {
                    match apic.acknowledge() {
                        Some(0x31) => machine.pic.clone().port_write(0x20, &[0x20]),
                        Some(0x61) => {
                            pci.set(false);
                            apic.end_of_interrupt();
                            pci_served.fetch_add(1, Ordering::SeqCst);
                        }
                        Some(0x51) => apic.end_of_interrupt(),
                        Some(_) => {
                            apic.set_interrupt_command(0xc_0051);
                            apic.end_of_interrupt();
                        }
                        None => std::hint::spin_loop(),
                    }
                }
            });
        }
        let devices = scope.spawn(|| {
            for _ in 0..EDGES {
                keyboard.pulse();
                serial.pulse();
                machine.apic(1).request(0x71, Trigger::Edge);
            }
        });
        for number in 1..=1000 {
            pci.set(true);
            while pci_served.load(Ordering::SeqCst) < number {
                std::hint::spin_loop();
            }
            machine.apics.send(interrupt::Message { address: 0xfeef_f000, data: 0x0400 });
        }
        devices.join().unwrap();
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(pci_served.load(Ordering::SeqCst), 1000);
    assert!(machine.processors.iter().all(|processor| processor.nmis.load(Ordering::SeqCst) == 1000));
}
