//! The tables: each job, the means of the classes, and the claims with what they should be.

use super::contestant::{Contestant, Outcome};
use super::jobs::{Class, IDLE_BAR, Job, MEMORY_BAR, OVERALL_BAR, TWO_PROCESSORS_BAR, Unit};
use super::{Column, geometric_mean, ratio};

use Contestant::{Native, Tcg, Translator};

/// Prints all of it.
pub fn print(jobs: &[Job], columns: &[Column]) {
    print_jobs(jobs, columns);
    print_classes(jobs, columns);
    print_two(jobs, columns);
    print_upkeep(columns);
    print_notes(jobs, columns);
}

fn print_jobs(jobs: &[Job], columns: &[Column]) {
    let mut head = vec!["job".to_owned(), "class".to_owned()];
    head.extend(columns.iter().map(|column| column.contestant.name().to_owned()));
    head.extend(["translator/tcg", "translator/native", "bar", ""].map(str::to_owned));
    let rows = jobs.iter().map(|job| {
        let mut row = vec![job.name.to_owned(), job.class.name().to_owned()];
        row.extend(columns.iter().map(|column| cell(column.jobs.get(job.name), job.unit)));
        let against_tcg = ratio(columns, Translator, Tcg, job);
        row.push(times(against_tcg));
        row.push(times(ratio(columns, Translator, Native, job)));
        row.extend(at_least(against_tcg, 1.0));
        row
    });
    print_table(head, rows);
}

fn print_classes(jobs: &[Job], columns: &[Column]) {
    let head = ["geometric means", "jobs", "translator/tcg", "translator/native", "native/tcg", "bar", ""];
    let row = |name: &str, bar: f64, jobs: &[&Job]| {
        let ratios = |who, of| jobs.iter().filter_map(move |job| ratio(columns, who, of, job));
        let mean = |who, of| geometric_mean(ratios(who, of));
        let against_tcg = mean(Translator, Tcg);
        let mut row = vec![name.to_owned(), ratios(Translator, Tcg).count().to_string(), times(against_tcg)];
        row.extend([times(mean(Translator, Native)), times(mean(Native, Tcg))]);
        row.extend(at_least(against_tcg, bar));
        row
    };
    let mut rows = Vec::new();
    for class in Class::ALL {
        let of_class: Vec<_> = jobs.iter().filter(|job| job.class == class).collect();
        if !of_class.is_empty() {
            rows.push(row(class.name(), class.bar(), &of_class));
        }
    }
    rows.push(row("all jobs", OVERALL_BAR, &jobs.iter().collect::<Vec<_>>()));
    let measured = jobs.iter().filter_map(|job| Some((job, ratio(columns, Translator, Tcg, job)?)));
    if let Some((slowest, _)) = measured.min_by(|(_, one), (_, other)| one.total_cmp(other)) {
        rows.push(row(&format!("the slowest job, {}", slowest.name), 1.0, &[slowest]));
    }
    print_table(head.map(str::to_owned).to_vec(), rows);
}

fn print_two(jobs: &[Job], columns: &[Column]) {
    let parallel: Vec<_> = jobs.iter().filter(|job| job.class == Class::Parallel).collect();
    if parallel.is_empty() {
        return;
    }
    let mut head = vec!["two processors against one".to_owned()];
    head.extend(columns.iter().map(|column| column.contestant.name().to_owned()));
    head.extend(["bar", ""].map(str::to_owned));
    let row = |name: &str, gain: &dyn Fn(&Column) -> Option<f64>| {
        let translator = columns.iter().find(|column| column.contestant == Translator);
        let mut row = vec![name.to_owned()];
        row.extend(columns.iter().map(|column| times(gain(column))));
        row.extend(at_least(translator.and_then(gain), TWO_PROCESSORS_BAR));
        row
    };
    let mut rows: Vec<_> =
        parallel.iter().map(|job| row(job.name, &|column| column.gain_of_two(job))).collect();
    rows.push(row("geometric mean", &|column| {
        geometric_mean(parallel.iter().filter_map(|job| column.gain_of_two(job)))
    }));
    print_table(head, rows);
}

fn print_upkeep(columns: &[Column]) {
    let machines: Vec<_> = columns.iter().filter(|column| column.memory.is_some()).collect();
    if machines.is_empty() {
        return;
    }
    let mut head = vec!["what a machine costs".to_owned()];
    head.extend(machines.iter().map(|column| column.contestant.name().to_owned()));
    head.extend(["bar", ""].map(str::to_owned));
    let row = |name: &str, unit: &str, bar: f64, value: &dyn Fn(&Column) -> Option<f64>| {
        let mut row = vec![name.to_owned()];
        row.extend(machines.iter().map(|column| match value(column) {
            Some(value) => format!("{value:.1} {unit}"),
            None => "n/a".to_owned(),
        }));
        let ours = machines.iter().find(|column| column.contestant == Translator);
        let met = ours.and_then(|column| value(column)).map(|value| value <= bar);
        row.extend([format!("<= {bar:.0} {unit}"), verdict(met)]);
        row
    };
    let known =
        |value: &Option<Result<f64, String>>| value.as_ref().and_then(|value| value.as_ref().ok().copied());
    let rows = [
        row("memory beyond the guest's RAM, after the jobs", "MiB", MEMORY_BAR, &|column| {
            known(&column.memory)
        }),
        row("a guest idle at its shell, of a core", "%", IDLE_BAR, &|column| known(&column.idle)),
    ];
    print_table(head, rows);
}

/// What has no figure, and results that differ.
fn print_notes(jobs: &[Job], columns: &[Column]) {
    // Who failed for which reason, and at which jobs: a machine that cannot be had fails at all of them.
    let mut notes: Vec<(String, String, Vec<&str>)> = Vec::new();
    let mut note =
        |who: String, what, why: &str| match notes.iter_mut().find(|note| note.0 == who && note.1 == why) {
            Some((.., jobs)) => jobs.push(what),
            None => notes.push((who, why.to_owned(), vec![what])),
        };
    for column in columns {
        let name = column.contestant.name();
        for (outcomes, on) in [(&column.jobs, ""), (&column.two, " on two processors")] {
            for job in jobs {
                let outcome = outcomes.get(job.name);
                if let Some(Err(why)) = outcome {
                    note(format!("{name}{on}"), job.name, why);
                }
                let right =
                    check(reference(columns, column.contestant).and_then(|column| column.jobs.get(job.name)));
                if check(outcome).zip(right).is_some_and(|(check, right)| check != right) {
                    note(format!("{name}{on}"), job.name, "the result is not the one that others have");
                }
            }
        }
        for (what, cost) in [("memory", &column.memory), ("idle", &column.idle)] {
            if let Some(Err(why)) = cost {
                note(name.to_owned(), what, why);
            }
        }
    }
    if !notes.is_empty() {
        println!("\nn/a or wrong:");
    }
    for (who, why, jobs) in notes {
        println!("  {who}: {}: {why}", jobs.join(", "));
    }
}

/// Whose results are taken as right: the host's, or QEMU's.
fn reference(columns: &[Column], against: Contestant) -> Option<&Column> {
    let find = |who| columns.iter().find(|column| column.contestant == who && who != against);
    find(Native).or_else(|| find(Tcg))
}

fn check(outcome: Option<&Outcome>) -> Option<&str> {
    outcome?.as_ref().ok()?.check.as_deref()
}

fn cell(outcome: Option<&Outcome>, unit: Unit) -> String {
    match outcome {
        Some(Ok(value)) => figure(value.value, unit),
        Some(Err(_)) => "n/a".to_owned(),
        None => "-".to_owned(),
    }
}

/// A figure with its unit, to three digits.
pub fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds => format!("{} s", digits(value)),
        Unit::Bytes => format!("{} MB/s", digits(value / 1e6)),
        Unit::Operations => format!("{} /s", digits(value)),
    }
}

fn digits(value: f64) -> String {
    let decimals = if value < 1.0 {
        3
    } else if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.decimals$}")
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{}x", digits(ratio)))
}

/// A bar that a ratio should reach, and whether it does.
fn at_least(ratio: Option<f64>, bar: f64) -> [String; 2] {
    [format!(">= {bar}x"), verdict(ratio.map(|ratio| ratio >= bar))]
}

fn verdict(met: Option<bool>) -> String {
    match met {
        Some(true) => "met",
        Some(false) => "NOT MET",
        None => "?",
    }
    .to_owned()
}

/// Prints columns as wide as they must be: words to the left, figures to the right.
fn print_table(head: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) {
    let left: Vec<_> =
        (0..head.len()).map(|at| at == 0 || head[at] == "class" || head[at].is_empty()).collect();
    let rows: Vec<_> = [head].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..left.len()).map(width).collect();
    println!();
    for row in &rows {
        let cells = row.iter().zip(&widths).zip(&left).map(|((cell, &width), left)| {
            if *left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
