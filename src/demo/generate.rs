//! A made-up Latvian company register: seeded, with municipalities in their real proportions.
//!
//! Owns the days that the demo plays: companies open, close, change and move, and on 1 July 2021 municipalities
//! are merged. Company names are made of words and name nobody.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Municipality and its weight: inhabitants in thousands (Central Statistical Bureau, 2021, rounded).
const MUNICIPALITIES: [(&str, u64); 16] = [
    ("Rīga", 615),
    ("Daugavpils", 80),
    ("Liepāja", 67),
    ("Jelgava", 55),
    ("Jūrmala", 50),
    ("Ventspils", 33),
    ("Rēzekne", 27),
    ("Ogres novads", 34),
    ("Ikšķiles novads", 10),
    ("Lielvārdes novads", 10),
    ("Ķeguma novads", 5),
    ("Mārupes novads", 24),
    ("Babītes novads", 12),
    ("Cēsu novads", 17),
    ("Amatas novads", 5),
    ("Priekuļu novads", 7),
];

/// Who was merged into whom on 1 July 2021 (Law on Administrative Territories and Populated Areas, 2020).
const MERGERS: [(&str, &str); 6] = [
    ("Ikšķiles novads", "Ogres novads"),
    ("Lielvārdes novads", "Ogres novads"),
    ("Ķeguma novads", "Ogres novads"),
    ("Babītes novads", "Mārupes novads"),
    ("Amatas novads", "Cēsu novads"),
    ("Priekuļu novads", "Cēsu novads"),
];

const FIRST: [&str; 12] = [
    "Ābele",
    "Bērzs",
    "Čiekurs",
    "Dzērve",
    "Ēnas",
    "Gaiļezers",
    "Ķirsis",
    "Ļaudona",
    "Ņega",
    "Šķūnis",
    "Ūdensroze",
    "Žagata",
];
const SECOND: [&str; 8] =
    ["būve", "serviss", "transports", "pārtika", "mežs", "tehnika", "nams", "konsultācijas"];

const COMPANIES: u64 = 3_000;

/// SplitMix64: the same companies on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let index = self.next(u64::try_from(from.len()).unwrap_or(1));
        usize::try_from(index).ok().and_then(|index| from.get(index)).copied().unwrap_or("")
    }

    fn municipality(&mut self) -> &'static str {
        let total: u64 = MUNICIPALITIES.iter().map(|(_, weight)| weight).sum();
        let mut place = self.next(total);
        for (name, weight) in MUNICIPALITIES {
            if place < weight {
                return name;
            }
            place -= weight;
        }
        "Rīga"
    }
}

#[derive(Clone)]
struct Company {
    code: u64,
    name: String,
    municipality: String,
    street: String,
    phone: String,
}

fn company(random: &mut Random, number: u64) -> Company {
    let (first, second) = (random.pick(&FIRST), random.pick(&SECOND));
    Company {
        code: 40_003_000_000 + number * 17,
        name: format!("SIA \"{first} {second} {number}\""),
        municipality: random.municipality().to_owned(),
        street: format!("{} iela {}", random.pick(&FIRST), random.next(120) + 1),
        phone: format!("2{:07}", random.next(10_000_000)),
    }
}

fn day(random: &mut Random, companies: &mut Vec<Company>, numbers: &mut u64) {
    for _ in 0..companies.len() / 100 {
        let index = usize::try_from(random.next(u64::try_from(companies.len()).unwrap_or(1))).unwrap_or(0);
        match random.next(4) {
            0 if index < companies.len() => drop(companies.swap_remove(index)),
            1 => {
                *numbers += 1;
                companies.push(company(random, *numbers));
            }
            2 => {
                let new = random.municipality().to_owned();
                if let Some(moving) = companies.get_mut(index) {
                    moving.municipality = new;
                }
            }
            _ => {
                let phone = format!("2{:07}", random.next(10_000_000));
                if let Some(changing) = companies.get_mut(index) {
                    changing.phone = phone;
                }
            }
        }
    }
}

fn write(dir: &Path, name: &str, companies: &[Company]) -> anyhow::Result<PathBuf> {
    let mut text = "reģistrācijas numurs,nosaukums,novads,adrese,tālrunis\n".to_owned();
    for company in companies {
        let quoted = company.name.replace('"', "\"\"");
        let Company { code, municipality, street, phone, .. } = company;
        writeln!(text, "{code},\"{quoted}\",{municipality},{street},{phone}")?;
    }
    let path = dir.join(name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Writes the register's versions, in order: two ordinary days, then the day of the merger.
pub fn versions(dir: &Path, seed: u64) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut random = Random(seed);
    let mut numbers = COMPANIES;
    let mut companies: Vec<Company> = (0..COMPANIES).map(|number| company(&mut random, number)).collect();
    let mut files = vec![write(dir, "2021-06-29.csv", &companies)?];
    day(&mut random, &mut companies, &mut numbers);
    files.push(write(dir, "2021-06-30.csv", &companies)?);
    for company in &mut companies {
        if let Some((_, into)) = MERGERS.iter().find(|(from, _)| *from == company.municipality) {
            (*into).clone_into(&mut company.municipality);
        }
    }
    day(&mut random, &mut companies, &mut numbers);
    files.push(write(dir, "2021-07-01.csv", &companies)?);
    Ok(files)
}

/// The key's columns and the territory's.
pub const COLUMNS: (&str, &str) = ("reģistrācijas numurs", "novads");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_register_and_the_merged_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let read = |files: Vec<PathBuf>| -> Vec<String> {
            files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
        };
        let first = read(versions(&dir.path().join("a"), 7).unwrap());
        assert_eq!(first, read(versions(&dir.path().join("b"), 7).unwrap()));
        assert_ne!(first, read(versions(&dir.path().join("c"), 8).unwrap()));
        assert!(first[1].contains(",Babītes novads,"));
        assert!(!first[2].lines().skip(1).any(|line| line.contains(",Ķeguma novads,")));
    }
}
