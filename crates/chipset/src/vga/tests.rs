use clock::FakeClock;
use proptest::prelude::*;

use super::*;

fn vga() -> Vga {
    Vga::new(FakeClock::new())
}

fn out(vga: &mut Vga, port: u16, value: u8) {
    vga.port_write(port, &[value]);
}

fn input(vga: &mut Vga, port: u16) -> u8 {
    let mut data = [0xff];
    vga.port_read(port, &mut data);
    data[0]
}

fn indexed(vga: &mut Vga, port: u16, registers: &[(u8, u8)]) {
    for &(index, value) in registers {
        vga.port_write(port, &[index, value]);
    }
}

fn attributes(vga: &mut Vga, registers: &[(u8, u8)]) {
    input(vga, port::COLOUR_STATUS_1);
    for &(index, value) in registers {
        out(vga, port::ATTRIBUTE, index);
        out(vga, port::ATTRIBUTE, value);
    }
    out(vga, port::ATTRIBUTE, ATTRIBUTE_SOURCE);
}

fn poke(vga: &mut Vga, address: u64, bytes: &[u8]) {
    vga.memory_write(address - 0xa_0000, bytes);
}

fn peek(vga: &mut Vga, address: u64) -> u8 {
    let mut data = [0xff];
    vga.memory_read(address - 0xa_0000, &mut data);
    data[0]
}

fn dispi(vga: &mut Vga, registers: &[(u16, u16)]) {
    for &(index, value) in registers {
        vga.port_write(DISPI_PORT, &index.to_le_bytes());
        vga.port_write(DISPI_PORT + 1, &value.to_le_bytes());
    }
}

fn dispi_read(vga: &mut Vga, index: u16) -> u16 {
    vga.port_write(DISPI_PORT, &index.to_le_bytes());
    let mut data = [0; 2];
    vga.port_read(DISPI_PORT + 1, &mut data);
    u16::from_le_bytes(data)
}

/// Palette entry n is (n, 2n, 3n) of 63.
fn palette(vga: &mut Vga) {
    out(vga, port::DAC_WRITE_INDEX, 0);
    for index in 0..16 {
        for factor in 1..=3 {
            out(vga, port::DAC_DATA, index * factor);
        }
    }
    attributes(vga, &std::array::from_fn::<_, 16, _>(|index| (index as u8, index as u8)));
}

fn shade(index: u8) -> [u8; 3] {
    [index, 2 * index, 3 * index].map(|part| part << 2 | part >> 4)
}

/// Text mode 3, 80×25, with a font in which every line of character c is c.
fn text_mode() -> Vga {
    let mut vga = vga();
    out(&mut vga, port::MISC_WRITE, 0x67);
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(2, 4), (4, 6)]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 0), (6, 0), (8, 0xff)]);
    for character in 0..=255_u8 {
        poke(&mut vga, 0xa_0000 + u64::from(character) * 32, &[character; 16]);
    }
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(1, 0), (2, 3), (4, 2)]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 0x10), (6, 0x0e)]);
    let crtc =
        [(0x01, 0x4f), (0x07, 0x1f), (0x09, 0x4f), (0x0a, 0x0d), (0x0b, 0x0e), (0x12, 0x8f), (0x13, 0x28)];
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &crtc);
    palette(&mut vga);
    attributes(&mut vga, &[(0x10, 0x0c), (0x12, 0x0f)]);
    vga
}

#[test]
fn text_is_read_from_the_window_at_0xb8000() {
    let mut vga = text_mode();
    poke(&mut vga, 0xb_8000, b"H\x07i\x1f");
    poke(&mut vga, 0xb_8000 + 160, b"!\x07");
    let text = vga.text().unwrap();
    assert_eq!((text.columns, text.cells.len()), (80, 2000));
    assert_eq!(text.text(), "Hi\n!\n");
    assert_eq!(text.cells[1].attribute, 0x1f);
    assert_eq!([peek(&mut vga, 0xb_8000), peek(&mut vga, 0xb_8003)], [b'H', 0x1f]);
    assert_eq!(peek(&mut vga, 0xa_0000), 0xff, "another window");
}

#[test]
fn the_start_address_scrolls_and_the_cursor_goes_with_it() {
    let mut vga = text_mode();
    poke(&mut vga, 0xb_8000 + 160, b"x\x07");
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &[(0x0c, 0), (0x0d, 80), (0x0e, 0), (0x0f, 163)]);
    let text = vga.text().unwrap();
    assert_eq!(text.cells[0].character, b'x');
    assert_eq!(text.cursor, Some((3, 1)));
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &[(0x0a, 0x20)]);
    assert_eq!(vga.text().unwrap().cursor, None);
}

#[test]
fn the_image_of_text_has_the_guests_font_and_palette() {
    let mut vga = text_mode();
    poke(&mut vga, 0xb_8000, &[0x81, 0x25, 0xc1, 0x25]);
    let frame = vga.frame();
    assert_eq!((frame.width(), frame.height()), (720, 400));
    let row: Vec<_> = (0..18).map(|x| frame.pixel(x, 3).unwrap()).collect();
    let (on, off) = (shade(5), shade(2));
    assert_eq!(row[..9], [on, off, off, off, off, off, off, on, off], "the ninth dot is background");
    assert_eq!(row[9..], [on, on, off, off, off, off, off, on, on], "but continues lines");
    assert_eq!(frame.pixel(0, 14), Some(on), "the cursor is below");
}

#[test]
fn a_machine_without_firmware_starts_with_a_clear_text_screen() {
    let mut vga = vga();
    assert_eq!(vga.mode(), "not set up");
    vga.set_text_mode();
    assert_eq!((vga.mode().as_str(), vga.text().unwrap().text().as_str()), ("text, 80×25", "\n"));
    poke(&mut vga, 0xb_8000 + 160, b"k\x17");
    assert_eq!(vga.text().unwrap().lines()[1], "k");
    let blue = vga.frame().pixel(0, 16);
    assert_eq!(blue, Some([0, 0, 0xaa]), "there is no font: only the background is seen");
}

#[test]
fn a_screen_that_is_off_is_black() {
    let mut vga = text_mode();
    poke(&mut vga, 0xb_8000, &[0xff, 0x77]);
    input(&mut vga, port::COLOUR_STATUS_1);
    out(&mut vga, port::ATTRIBUTE, 0);
    assert_eq!(vga.frame().pixel(0, 0), Some([0; 3]));
}

/// 640×480 in 16 colours.
fn mode_12() -> Vga {
    let mut vga = vga();
    out(&mut vga, port::MISC_WRITE, 0xe3);
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(1, 1), (2, 0x0f), (4, 6)]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 0), (6, 5), (7, 0x0f), (8, 0xff)]);
    let crtc = [(0x01, 0x4f), (0x07, 0x3e), (0x09, 0x40), (0x12, 0xdf), (0x13, 0x28), (0x17, 0xe3)];
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &crtc);
    palette(&mut vga);
    attributes(&mut vga, &[(0x10, 1), (0x12, 0x0f)]);
    vga
}

#[test]
fn write_mode_0_masks_bits_and_expands_set_reset() {
    let mut vga = mode_12();
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(0, 0x05), (1, 0x0f), (8, 0xf0)]);
    peek(&mut vga, 0xa_0000);
    poke(&mut vga, 0xa_0000, &[0]);
    let frame = vga.frame();
    assert_eq!((frame.width(), frame.height()), (640, 480));
    assert_eq!([0, 3, 4].map(|x| frame.pixel(x, 0)), [Some(shade(5)), Some(shade(5)), Some(shade(0))]);
}

#[test]
fn write_modes_1_to_3() {
    let mut vga = mode_12();
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 2)]);
    poke(&mut vga, 0xa_0000, &[0x09]);
    peek(&mut vga, 0xa_0000);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 1)]);
    poke(&mut vga, 0xa_0050, &[0]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 3), (0, 0x06)]);
    peek(&mut vga, 0xa_0050);
    poke(&mut vga, 0xa_0050, &[0x81]);
    let frame = vga.frame();
    assert_eq!(frame.pixel(0, 0), Some(shade(9)), "mode 2 takes a colour");
    assert_eq!([0, 1, 7].map(|x| frame.pixel(x, 1)), [Some(shade(6)), Some(shade(9)), Some(shade(6))]);
}

#[test]
fn functions_combine_with_the_latches_and_data_is_rotated() {
    let mut vga = mode_12();
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(2, 1)]);
    poke(&mut vga, 0xa_0000, &[0b1100_1100]);
    for (rotate_and_function, expected) in
        [(0x08, 0b1000_1000), (0x10, 0b1110_1110), (0x18, 0b0110_0110), (1, 0b0101_0101)]
    {
        indexed(&mut vga, port::GRAPHICS_INDEX, &[(3, 0)]);
        poke(&mut vga, 0xa_0000, &[0b1100_1100]);
        peek(&mut vga, 0xa_0000);
        indexed(&mut vga, port::GRAPHICS_INDEX, &[(3, rotate_and_function)]);
        poke(&mut vga, 0xa_0000, &[0b1010_1010]);
        assert_eq!(peek(&mut vga, 0xa_0000), expected, "{rotate_and_function:#x}");
    }
}

#[test]
fn read_mode_1_compares_colours() {
    let mut vga = mode_12();
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 2), (8, 0xf0)]);
    poke(&mut vga, 0xa_0000, &[0x0a]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 8), (2, 0x0a)]);
    assert_eq!(peek(&mut vga, 0xa_0000), 0xf0);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(7, 0)]);
    assert_eq!(peek(&mut vga, 0xa_0000), 0xff, "no plane counts");
}

#[test]
fn mode_13_has_a_byte_for_each_pixel() {
    let mut vga = vga();
    out(&mut vga, port::MISC_WRITE, 0x63);
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(1, 1), (2, 0x0f), (4, 0x0e)]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 0x40), (6, 5), (8, 0xff)]);
    let crtc =
        [(0x01, 0x4f), (0x07, 0x1f), (0x09, 0x41), (0x12, 0x8f), (0x13, 0x28), (0x14, 0x40), (0x17, 0xa3)];
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &crtc);
    palette(&mut vga);
    poke(&mut vga, 0xa_0000 + 320 * 199 + 318, &[7, 8]);
    let frame = vga.frame();
    assert_eq!((frame.width(), frame.height()), (320, 200));
    assert_eq!([318, 319].map(|x| frame.pixel(x, 199)), [Some(shade(7)), Some(shade(8))]);
    assert!(vga.text().is_none());
}

#[test]
fn cga_graphics_have_odd_lines_in_the_second_bank() {
    let mut vga = vga();
    out(&mut vga, port::MISC_WRITE, 0x63);
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(1, 9), (2, 3), (4, 2)]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(5, 0x30), (6, 0x0f), (8, 0xff)]);
    let crtc = [(0x01, 0x27), (0x07, 0x1f), (0x09, 0xc1), (0x12, 0x8f), (0x13, 0x14), (0x17, 0xa2)];
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &crtc);
    palette(&mut vga);
    attributes(&mut vga, &[(0x10, 1), (0x12, 3)]);
    poke(&mut vga, 0xb_8000, &[0b0001_1011]);
    poke(&mut vga, 0xb_a000, &[0b1100_0000]);
    poke(&mut vga, 0xb_8050, &[0b1000_0000]);
    let frame = vga.frame();
    assert_eq!((frame.width(), frame.height()), (320, 200));
    assert_eq!([0, 1, 2, 3].map(|x| frame.pixel(x, 0)), [0, 1, 2, 3].map(|index| Some(shade(index))));
    assert_eq!([frame.pixel(0, 1), frame.pixel(0, 2)], [Some(shade(3)), Some(shade(2))]);
}

#[test]
fn the_display_interface_sets_modes_with_a_linear_frame_buffer() {
    let vga = Arc::new(Mutex::new(vga()));
    dispi(&mut lock(&vga), &[(0, 0xb0c5), (1, 800), (2, 600), (3, 32), (4, 0x41)]);
    let mut window = LinearWindow::new(Arc::clone(&vga));
    window.memory_write((800 * 599 + 799) * 4, &[0x11, 0x22, 0x33, 0]);
    let frame = lock(&vga).frame();
    assert_eq!((frame.width(), frame.height()), (800, 600));
    assert_eq!(frame.pixel(799, 599), Some([0x33, 0x22, 0x11]));
    assert_eq!(dispi_read(&mut lock(&vga), 6), 800);
    let mut data = [0xff; 4];
    window.memory_read(16 << 20, &mut data);
    assert_eq!(data, [0xff; 4], "there is no memory");
    window.memory_write(u64::MAX, &[1; 4]);
}

#[test]
fn modes_of_15_and_16_bits_and_offsets() {
    let mut vga = vga();
    dispi(&mut vga, &[(1, 8), (2, 2), (3, 16), (4, 0x41), (6, 16), (8, 8), (9, 1)]);
    vga.memory[(16 + 8) * 2..][..2].copy_from_slice(&0xf800_u16.to_le_bytes());
    assert_eq!(vga.frame().pixel(0, 0), Some([255, 0, 0]));
    dispi(&mut vga, &[(4, 0), (3, 15), (4, 0xc1)]);
    vga.memory[..2].copy_from_slice(&0x03e0_u16.to_le_bytes());
    assert_eq!(vga.frame().pixel(0, 0), Some([0, 255, 0]));
}

#[test]
fn the_window_at_0xa0000_shows_a_bank() {
    let mut vga = vga();
    indexed(&mut vga, port::SEQUENCER_INDEX, &[(2, 0x0f), (4, 0x0e)]);
    indexed(&mut vga, port::GRAPHICS_INDEX, &[(6, 5)]);
    dispi(&mut vga, &[(1, 1024), (2, 768), (3, 8), (4, 1), (5, 3)]);
    poke(&mut vga, 0xa_0004, &[9]);
    assert_eq!(vga.memory[0x3_0004], 9);
    dispi(&mut vga, &[(5, 0x100)]);
    assert_eq!(dispi_read(&mut vga, 5), 3, "there are 256 banks");
}

#[test]
fn a_mode_that_reaches_beyond_the_memory_is_not_shown() {
    let mut vga = vga();
    dispi(&mut vga, &[(1, 2560), (2, 1600), (3, 32), (4, 0x41)]);
    assert_eq!((vga.frame().width(), vga.frame().height()), (2560, 1600));
    dispi(&mut vga, &[(9, 100)]);
    assert_ne!(vga.frame().width(), 2560);
    dispi(&mut vga, &[(9, 0), (6, 0xffff)]);
    assert_ne!(vga.frame().width(), 2560);
}

#[test]
fn capabilities_are_told_in_place_of_the_mode() {
    let mut vga = vga();
    dispi(&mut vga, &[(4, 2)]);
    assert_eq!([1, 2, 3].map(|index| dispi_read(&mut vga, index)), [2560, 1600, 32]);
    assert_eq!(dispi_read(&mut vga, 10), 256);
    assert_eq!(dispi_read(&mut vga, 0), 0xb0c0);
}

#[test]
fn setting_a_mode_clears_the_memory_unless_told_not_to() {
    let mut vga = vga();
    let mode = [(1, 640), (2, 480), (3, 8)];
    dispi(&mut vga, &mode);
    vga.memory[5] = 1;
    dispi(&mut vga, &[(4, 0x81)]);
    assert_eq!(vga.memory[5], 1);
    dispi(&mut vga, &[(4, 0), (4, 1)]);
    assert_eq!(vga.memory[5], 0);
}

#[test]
fn the_crtc_protects_its_first_registers() {
    let mut vga = vga();
    out(&mut vga, port::MISC_WRITE, 1);
    indexed(&mut vga, port::COLOUR_CRTC_INDEX, &[(1, 5), (0x11, 0x80), (1, 6), (7, 0xff), (8, 7)]);
    assert_eq!((vga.crtc[1], vga.crtc[7], vga.crtc[8]), (5, 0x10, 7));
    out(&mut vga, port::MONO_CRTC_INDEX, 8);
    assert_eq!(input(&mut vga, port::MONO_CRTC_DATA), 0xff, "the other ports are not there");
}

#[test]
fn the_palette_counts_by_itself_and_has_six_bits() {
    let mut vga = vga();
    out(&mut vga, port::DAC_WRITE_INDEX, 255);
    (1..=6).for_each(|value| out(&mut vga, port::DAC_DATA, value | 0xc0));
    assert_eq!((vga.dac.palette[255], vga.dac.palette[0]), ([1, 2, 3], [4, 5, 6]));
    out(&mut vga, port::DAC_READ_INDEX, 255);
    assert_eq!(input(&mut vga, port::DAC_READ_INDEX), 3);
    assert_eq!([0; 4].map(|_: u8| input(&mut vga, port::DAC_DATA)), [1, 2, 3, 4]);
}

#[test]
fn retrace_comes_with_the_time() {
    let clock = FakeClock::new();
    let mut vga = Vga::new(clock.clone());
    out(&mut vga, port::MISC_WRITE, 1);
    assert_eq!(input(&mut vga, port::COLOUR_STATUS_1), 0);
    clock.advance(FRAME_TIME - 1);
    assert_eq!(input(&mut vga, port::COLOUR_STATUS_1), STATUS_RETRACE | STATUS_BLANK);
    clock.advance(1 + LINE_TIME - 1);
    assert_eq!(input(&mut vga, port::COLOUR_STATUS_1), STATUS_BLANK);
}

#[test]
fn it_has_the_identity_of_hyper_vs_adapter() {
    let mut vga = vga();
    assert_eq!(vga.config_read(0), 0x5353_1414);
    assert_eq!(vga.config_read(8) >> 8, 0x03_0000);
    vga.config_write(0x10, u32::MAX, u32::MAX);
    assert_eq!(vga.config_read(0x10), 0xfc00_0008);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((0_u8..6, any::<u16>(), any::<u32>()), 0..200),
    ) {
        let vga = Arc::new(Mutex::new(vga()));
        let mut window = LinearWindow::new(Arc::clone(&vga));
        for (what, place, value) in accesses {
            let length = [1, 2, 4][value as usize % 3];
            let bytes = value.to_le_bytes();
            match what {
                0 | 1 => lock(&vga).port_write(PORT + place % PORTS, &bytes[..length]),
                2 => lock(&vga).port_read(PORT + place % PORTS, &mut [0; 4][..length]),
                3 => dispi(&mut lock(&vga), &[(place % 12, value as u16)]),
                4 => lock(&vga).memory_write(u64::from(value) % 0x2_0000, &bytes[..length]),
                _ => window.memory_write(u64::from(value), &bytes),
            }
        }
        let vga = lock(&vga);
        let (frame, text) = (vga.frame(), vga.text());
        prop_assert!(frame.width() <= 2560 && frame.height() <= 1600);
        prop_assert!(text.is_none_or(|text| text.cells.len() <= 256 * 1024));
    }
}

#[test]
fn as_bochs_s_adapter_it_has_its_registers_and_the_monitor_s_data_in_memory() {
    let vga = Arc::new(Mutex::new(Vga::with_identity(FakeClock::new(), BOCHS)));
    assert_eq!(lock(&vga).config_read(0x18), 0);
    lock(&vga).config_write(0x18, u32::MAX, u32::MAX);
    assert_eq!(lock(&vga).config_read(0x18), 0xffff_f000);
    // The linear frame buffer is as large as the memory, as drivers want it.
    lock(&vga).config_write(0x10, u32::MAX, u32::MAX);
    assert_eq!(lock(&vga).config_read(0x10), 0xff00_0008);
    let mut window = RegisterWindow::new(Arc::clone(&vga));
    let read = |window: &mut RegisterWindow, offset, length| {
        let mut data = vec![0x55; length];
        window.memory_read(offset, &mut data);
        data
    };
    assert_eq!(read(&mut window, 0, 8), [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    // There is one block: behind it, and behind all registers, there is nothing.
    assert_eq!(read(&mut window, 126, 4)[2..], [0, 0]);
    assert_eq!(read(&mut window, 0x600, 4), [0; 4]);
    assert_eq!(read(&mut window, 0x500, 2), [0xc0, 0xb0]);
    for (register, value) in [(1_u64, 640_u16), (2, 480), (3, 32), (4, 0x41)] {
        window.memory_write(0x500 + 2 * register, &value.to_le_bytes());
    }
    assert_eq!(lock(&vga).frame().width(), 640);
    assert_eq!(read(&mut window, 0x502, 2), 640_u16.to_le_bytes());
    // Port 0x3c2, whose value 0x3cc reads.
    window.memory_write(0x402, &[0x67]);
    assert_eq!(read(&mut window, 0x40c, 1), [0x67]);
}
