//! An image.

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// An image of whole pixels, row by row from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    width: usize,
    pixels: Vec<Rgb>,
}

impl Frame {
    /// A black image.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, pixels: vec![[0; 3]; width * height] }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.pixels.len().checked_div(self.width).unwrap_or(0)
    }

    /// The rows from the top.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [Rgb]> {
        self.pixels.chunks_exact_mut(self.width.max(1))
    }

    /// The pixel at column `x` of row `y`, if there is one.
    pub fn pixel(&self, x: usize, y: usize) -> Option<Rgb> {
        (x < self.width).then(|| self.pixels.get(y * self.width + x).copied()).flatten()
    }

    /// Sets a pixel; those outside of the image are left out.
    pub fn set(&mut self, x: usize, y: usize, colour: Rgb) {
        if x < self.width
            && let Some(pixel) = self.pixels.get_mut(y * self.width + x)
        {
            *pixel = colour;
        }
    }

    /// The image as a PNG file (ISO/IEC 15948).
    ///
    /// # Errors
    /// When the image has no pixels.
    pub fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height() as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        writer.finish()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_has_the_pixels_of_the_image() {
        let mut frame = Frame::new(3, 2);
        frame.set(2, 1, [1, 2, 3]);
        frame.set(3, 0, [9; 3]);
        frame.set(0, 2, [9; 3]);
        let file = frame.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!(pixels[15..], [1, 2, 3]);
        assert!(pixels[..15].iter().all(|byte| *byte == 0));
        assert_eq!((frame.pixel(2, 1), frame.pixel(3, 1)), (Some([1, 2, 3]), None));
    }

    #[test]
    fn an_image_without_pixels_is_no_png() {
        assert!(Frame::new(0, 0).png().is_err());
    }
}
