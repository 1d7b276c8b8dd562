//! Pictures by latent diffusion: what is asked of an engine, the noise that it begins with, and what it leaves of each
//! step.
//!
//! `docs/protocol.md` says how noise is drawn, so that every engine begins a picture alike.

use std::f64::consts::TAU;
use std::time::Instant;

use crate::EngineError;

/// What the sides of a picture are multiples of, in pixels.
pub const PICTURE_SIDE_STEP: u32 = 64;
/// The longest side of a picture, in pixels.
pub const MAX_PICTURE_SIDE: u32 = 1024;
/// The most steps that a picture takes.
pub const MAX_PICTURE_STEPS: u32 = 100;
/// Pixels in each direction that one latent stands for.
pub(crate) const PIXELS_PER_LATENT: usize = 8;
/// Channels of the latents.
pub(crate) const CHANNELS: usize = 4;
/// Parts of each channel in each direction of which a step leaves the mean.
const PARTS: usize = 4;
/// Numbers that are left of a step.
pub const SUMMARY_NUMBERS: usize = CHANNELS * PARTS * PARTS;
/// The unit of these numbers is 1/4096.
const SUMMARY_SCALE: f64 = 4096.0;
/// The largest of them.
const MAX_SUMMARY: f64 = (1 << 20) as f64;
/// The most bytes of a picture as PNG that another process may tell: its pixels, should they not compress, and more.
pub(crate) const MAX_PICTURE_BYTES: usize = 1 << 20;

/// What to paint, and within which bounds.
#[derive(Debug, Clone)]
pub struct PaintRequest {
    /// Token ids of the prompt with the special tokens around it, 1 to the manifest's `context_length`.
    pub prompt_ids: Vec<u32>,
    /// Pixels of a row, a multiple of [`PICTURE_SIDE_STEP`] up to [`MAX_PICTURE_SIDE`].
    pub width: u32,
    /// Rows, a multiple of [`PICTURE_SIDE_STEP`] up to [`MAX_PICTURE_SIDE`].
    pub height: u32,
    /// Steps of denoising, 1 to [`MAX_PICTURE_STEPS`].
    pub steps: u32,
    /// How much further than the prompt alone leads, in thousandths, at least 1000, which is no further.
    pub guidance: u32,
    /// What the noise is drawn from.
    pub seed: [u8; 32],
    /// When to give up.
    pub deadline: Option<Instant>,
    /// The most memory that the weights and this request may take together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

impl PaintRequest {
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let is_side = |side: u32| {
            (PICTURE_SIDE_STEP..=MAX_PICTURE_SIDE).contains(&side) && side.is_multiple_of(PICTURE_SIDE_STEP)
        };
        if !is_side(self.width) || !is_side(self.height) {
            return Err(EngineError::Request("a side of a picture is a multiple of 64 up to 1024"));
        }
        if !(1..=MAX_PICTURE_STEPS).contains(&self.steps) {
            return Err(EngineError::Request("a picture takes 1 to 100 steps"));
        }
        if self.guidance < 1000 {
            return Err(EngineError::Request("guidance is at least 1000 thousandths"));
        }
        Ok(())
    }

    /// Rows and columns of the latents.
    pub(crate) fn latents(&self) -> (usize, usize) {
        (self.height as usize / PIXELS_PER_LATENT, self.width as usize / PIXELS_PER_LATENT)
    }
}

/// So many standard normal numbers: BLAKE3 in keyed mode, the seed being the key, of nothing, read on as far as needed.
///
/// Sixteen bytes give two numbers by the method of Box and Muller, <https://doi.org/10.1214/aoms/1177706645>, in binary64:
/// with a and b the upper 53 bits of each half, big-endian, `√(−2 ln((a + 1) / 2^53))` times cosine and sine of `2π b / 2^53`.
pub fn noise(seed: &[u8; 32], count: usize) -> Vec<f32> {
    let mut bytes = blake3::Hasher::new_keyed(seed).finalize_xof();
    let mut numbers = Vec::with_capacity(count + 1);
    let mut uniform = || {
        let mut drawn = [0; 8];
        bytes.fill(&mut drawn);
        (u64::from_be_bytes(drawn) >> 11) as f64
    };
    let whole = (1u64 << 53) as f64;
    while numbers.len() < count {
        let radius = (-2.0 * ((uniform() + 1.0) / whole).ln()).sqrt();
        let angle = TAU * (uniform() / whole);
        numbers.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    numbers.truncate(count);
    numbers
}

/// What is left of a step: for each channel, row by row, the mean of each of its four by four parts in 1/4096, rounded,
/// at most 2^20 either way. `latents` are of four channels of `rows` by `columns`.
///
/// Refuses what is not finite.
pub fn summary(latents: &[f32], (rows, columns): (usize, usize)) -> Result<Vec<i32>, EngineError> {
    let (high, wide) = (rows / PARTS, columns / PARTS);
    let mean = |channel: usize, part: usize| {
        let (top, left) = (part / PARTS * high, part % PARTS * wide);
        let row = |y: usize| {
            let at = (channel * rows + top + y) * columns + left;
            latents[at..at + wide].iter().map(|number| f64::from(*number)).sum::<f64>()
        };
        (0..high).map(row).sum::<f64>() / (high * wide) as f64
    };
    let parts = (0..CHANNELS).flat_map(|channel| (0..PARTS * PARTS).map(move |part| (channel, part)));
    let scaled = |(channel, part)| match mean(channel, part) * SUMMARY_SCALE {
        number if number.is_finite() => Ok(number.round().clamp(-MAX_SUMMARY, MAX_SUMMARY) as i32),
        _ => Err(EngineError::NotFinite),
    };
    parts.map(scaled).collect()
}

/// Rows of red, green and blue as a PNG (ISO/IEC 15948) that holds nothing else.
pub(crate) fn png(rgb: &[u8], width: u32, height: u32) -> Result<Vec<u8>, EngineError> {
    let failed = |error: png::EncodingError| EngineError::Compute(error.to_string());
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_of_its_seed() {
        let numbers = noise(&[7; 32], 100_001);
        let mean = |power| numbers.iter().map(|n| f64::from(*n).powi(power)).sum::<f64>() / 100_001.0;
        // Six standard errors each of the first four moments.
        let moments = [mean(1), mean(2) - 1.0, mean(3), mean(4) - 3.0];
        let errors = [1.0, 2.0, 15.0, 96.0].map(|variance: f64| 6.0 * (variance / 100_001.0).sqrt());
        assert!(moments.iter().zip(errors).all(|(moment, error)| moment.abs() < error), "{moments:?}");
        assert_eq!(noise(&[7; 32], 5), numbers[..5], "longer noise begins as shorter");
        assert_ne!(noise(&[8; 32], 5), numbers[..5]);
    }

    #[test]
    fn a_summary_is_the_mean_of_each_part() {
        let (rows, columns) = (8, 16);
        let mut latents: Vec<f32> = (0..4 * rows * columns).map(|at| at as f32 / 64.0).collect();
        let found = summary(&latents, (rows, columns)).unwrap();
        // The second part of the third row of the fourth channel.
        let (top, left) = (3 * rows + 4, 4);
        let cells = (0..2).flat_map(|y| (0..4).map(move |x| (top + y) * columns + left + x));
        let mean = cells.map(|at| at as f64 / 64.0).sum::<f64>() / 8.0;
        assert_eq!(found[3 * 16 + 2 * 4 + 1], (mean * 4096.0).round() as i32);
        assert_eq!(found.len(), SUMMARY_NUMBERS);
        latents[0] = -1e9;
        assert_eq!(summary(&latents, (rows, columns)).unwrap()[0], -(1 << 20));
        latents[0] = f32::NAN;
        assert!(matches!(summary(&latents, (rows, columns)), Err(EngineError::NotFinite)));
    }

    #[test]
    fn pixels_come_out_of_a_png_as_they_went_in_and_fit_whatever_they_are() {
        let (width, height) = (512, 640);
        let mut rgb = vec![0; 3 * 512 * 640];
        blake3::Hasher::new().finalize_xof().fill(&mut rgb);
        let file = png(&rgb, width, height).unwrap();
        assert!(file.len() <= MAX_PICTURE_BYTES, "{}", file.len());
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (width, height, png::ColorType::Rgb));
        assert_eq!(pixels, rgb);
        assert_eq!(png(&rgb, width, height).unwrap(), file);
    }
}
