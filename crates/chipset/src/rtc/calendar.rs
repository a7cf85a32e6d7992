//! Dates of the proleptic Gregorian calendar, and how the chip's registers write them.

/// A point in time to the second, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1–12.
    pub(super) month: i64,
    /// 1–31.
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

const DAY: i64 = 86_400;

impl DateTime {
    /// The date and time `seconds` after 1970-01-01.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let (days, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years are counted from March, so that the leap day is the last one; 400 years are 146097 days.
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    /// Seconds after 1970-01-01. Values out of range carry over.
    pub(super) fn to_seconds(self) -> i64 {
        let month = self.month.clamp(1, 12);
        let year = self.year - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let march_month = (month + 9) % 12;
        let day_of_year = (153 * march_month + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * DAY + self.hour * 3600 + self.minute * 60 + self.second
    }

    /// 1 for Sunday to 7 for Saturday.
    pub(super) fn day_of_week(self) -> i64 {
        (self.to_seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1
    }
}

/// How registers write numbers: status register B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) binary: bool,
    pub(super) hours_24: bool,
}

const PM: u8 = 0x80;

impl Format {
    pub(super) fn encode(self, value: i64) -> u8 {
        let value = value.clamp(0, 99) as u8;
        if self.binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    pub(super) fn decode(self, register: u8) -> i64 {
        if self.binary {
            i64::from(register)
        } else {
            i64::from(register >> 4) * 10 + i64::from(register & 15)
        }
    }

    pub(super) fn encode_hour(self, hour: i64) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let of_twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(of_twelve) | if hour >= 12 { PM } else { 0 }
    }

    pub(super) fn decode_hour(self, register: u8) -> i64 {
        if self.hours_24 {
            return self.decode(register);
        }
        let of_twelve = self.decode(register & !PM) % 12;
        if register & PM != 0 { of_twelve + 12 } else { of_twelve }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        let date = DateTime::from_seconds(1_709_210_096);
        assert_eq!((date.year, date.month, date.day), (2024, 2, 29));
        assert_eq!((date.hour, date.minute, date.second), (12, 34, 56));
        assert_eq!(date.day_of_week(), 5);
        assert_eq!(DateTime::from_seconds(0).day_of_week(), 5);
    }

    #[test]
    fn midnight_and_noon_in_twelve_hours() {
        let format = Format { binary: false, hours_24: false };
        let hours = [0, 1, 11, 12, 13, 23];
        assert_eq!(hours.map(|hour| format.encode_hour(hour)), [0x12, 0x01, 0x11, 0x92, 0x81, 0x91]);
        assert_eq!(hours.map(|hour| format.decode_hour(format.encode_hour(hour))), hours);
    }

    proptest! {
        #[test]
        fn seconds_survive_the_calendar(seconds in -100_000_000_000_i64..400_000_000_000) {
            prop_assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }
    }
}
