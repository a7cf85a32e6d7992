//! The picture: how many times as fast as QEMU TCG the others do each job, as bars on a logarithmic scale (SVG 1.1).

use std::path::Path;
use std::{fs, io};

use super::contestant::Contestant;
use super::jobs::Job;
use super::{Column, geometric_mean, ratio};

/// Who has bars, and their colours: readable next to each other also without colour vision.
const SERIES: [(Contestant, &str, &str); 3] = [
    (Contestant::Interpreter, "#c9a227", "bodhi interpreter"),
    (Contestant::Translator, "#0b6fb8", "bodhi translator"),
    (Contestant::Native, "#b5bcc4", "native (chroot)"),
];

/// Widths and heights in pixels.
const NAMES: f64 = 250.0;
const CHART: f64 = 640.0;
const FIGURES: f64 = 60.0;
const TOP: f64 = 84.0;
const BAR: f64 = 8.0;
const GAP: f64 = 7.0;
const CLASS_GAP: f64 = 10.0;

/// Where a ratio is on the logarithmic axis.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// From and to a power of ten or its double or half, so that all `ratios` and 1 are inside.
    fn around(ratios: &[f64]) -> Self {
        let least = ratios.iter().copied().fold(1.0, f64::min);
        let most = ratios.iter().copied().fold(1.0, f64::max);
        let ticks: Vec<_> = Self::all_ticks().collect();
        let low = ticks.iter().copied().rfind(|tick| *tick <= least * 0.95).unwrap_or(least);
        let high = ticks.iter().copied().find(|tick| *tick >= most).unwrap_or(most);
        Self { low, high: high.max(low * 10.0) }
    }

    fn all_ticks() -> impl Iterator<Item = f64> {
        (-4..5).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low * 0.999, self.high * 1.001);
        Self::all_ticks().filter(move |tick| (low..=high).contains(tick))
    }

    fn x(&self, ratio: f64) -> f64 {
        NAMES + CHART * (ratio / self.low).ln() / (self.high / self.low).ln()
    }
}

/// Writes the picture. False, if there is nothing to compare.
pub fn write(path: &Path, jobs: &[Job], columns: &[Column]) -> io::Result<bool> {
    let Some(picture) = draw(jobs, columns) else { return Ok(false) };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, picture)?;
    Ok(true)
}

fn draw(jobs: &[Job], columns: &[Column]) -> Option<String> {
    let of = |who, job: &Job| ratio(columns, who, Contestant::Tcg, job);
    let series: Vec<_> =
        SERIES.into_iter().filter(|(who, ..)| jobs.iter().any(|job| of(*who, job).is_some())).collect();
    let ratios: Vec<_> =
        series.iter().flat_map(|(who, ..)| jobs.iter().filter_map(|job| of(*who, job))).collect();
    if ratios.is_empty() {
        return None;
    }
    let scale = Scale::around(&ratios);
    let row = BAR * series.len() as f64 + GAP;
    let breaks = jobs.windows(2).filter(|pair| pair[0].class != pair[1].class).count();
    let bottom = TOP + row * jobs.len() as f64 + CLASS_GAP * breaks as f64;

    let mut svg = String::new();
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let (width, height) = (NAMES + CHART + FIGURES, bottom + 34.0);
    line(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="11" fill="#24292f">"##
    ));
    line(format!(r#"<rect width="{width}" height="{height}" fill="white"/>"#));
    line(
        r#"<text x="16" y="26" font-size="16" font-weight="bold">Speed against QEMU TCG, by job</text>"#
            .to_owned(),
    );
    let mut x = 16.0;
    for (who, colour, name) in &series {
        let mean = geometric_mean(jobs.iter().filter_map(|job| of(*who, job))).unwrap_or(1.0);
        let label = format!("{name}, geometric mean {}x", short(mean));
        line(format!(r#"<rect x="{x}" y="41" width="11" height="11" fill="{colour}"/>"#));
        line(format!(r#"<text x="{}" y="51">{label}</text>"#, x + 16.0));
        x += 36.0 + 6.6 * label.len() as f64;
    }
    line(format!(
        r##"<line x1="{x}" y1="46.5" x2="{}" y2="46.5" stroke="#cf222e" stroke-dasharray="4 3"/>"##,
        x + 16.0
    ));
    line(format!(r#"<text x="{}" y="51">bar of the class</text>"#, x + 21.0));
    for tick in scale.ticks() {
        let (x, is_one) = (scale.x(tick), tick == 1.0);
        let (colour, weight) = if is_one { ("#24292f", 1.4) } else { ("#d8dee4", 1.0) };
        line(format!(
            r#"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{bottom:.1}" stroke="{colour}" stroke-width="{weight}"/>"#,
            TOP - 8.0
        ));
        let label = if is_one { "TCG".to_owned() } else { format!("{tick}x") };
        for y in [TOP - 13.0, bottom + 16.0] {
            line(format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle">{label}</text>"#));
        }
    }
    let mut y = TOP;
    for class in jobs.chunk_by(|one, next| one.class == next.class) {
        let (bar, rows) = (class[0].class.bar(), row * class.len() as f64);
        if bar > 1.0 && bar <= scale.high {
            line(format!(
                r##"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="#cf222e" stroke-width="1.4" stroke-dasharray="4 3"/>"##,
                y - 4.0,
                y + rows - GAP + 4.0,
                x = scale.x(bar)
            ));
        }
        y += rows + CLASS_GAP;
    }
    y = TOP;
    for (at, job) in jobs.iter().enumerate() {
        let first = at == 0 || jobs[at - 1].class != job.class;
        if first && at > 0 {
            y += CLASS_GAP;
        }
        let middle = y + (row - GAP) / 2.0 + 4.0;
        if first {
            let class = job.class.name();
            line(format!(r#"<text x="16" y="{middle:.1}" font-weight="bold">{class}</text>"#));
        }
        let name = job.name;
        line(format!(r#"<text x="{}" y="{middle:.1}" text-anchor="end">{name}</text>"#, NAMES - 8.0));
        for (who, colour, _) in &series {
            if let Some(ratio) = of(*who, job) {
                draw_bar(&mut line, &scale, y, ratio, colour);
            }
            y += BAR;
        }
        y += GAP;
    }
    line("</svg>".to_owned());
    Some(svg)
}

/// A bar from 1 to `ratio`, with the figure at its end.
fn draw_bar(line: &mut impl FnMut(String), scale: &Scale, y: f64, ratio: f64, colour: &str) {
    let (one, end) = (scale.x(1.0), scale.x(ratio));
    let (left, width) = (one.min(end), (one - end).abs().max(0.5));
    line(format!(
        r#"<rect x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"/>"#,
        BAR - 0.5
    ));
    let (x, anchor) = if ratio < 1.0 { (end - 3.0, "end") } else { (end + 3.0, "start") };
    line(format!(
        r#"<text x="{x:.1}" y="{:.1}" font-size="8" text-anchor="{anchor}">{}</text>"#,
        y + BAR - 1.0,
        short(ratio)
    ));
}

fn short(ratio: f64) -> String {
    let decimals = if ratio < 1.0 { 2 } else { usize::from(ratio < 10.0) };
    format!("{ratio:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_has_room_for_all_and_for_one() {
        let scale = Scale::around(&[3.0, 70.0]);
        assert!(scale.low < 1.0 && scale.high == 100.0);
        assert!(scale.x(1.0) > NAMES && scale.x(100.0) == NAMES + CHART);
    }
}
