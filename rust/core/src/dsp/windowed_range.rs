//! The range of a value over the last seconds: its maximum less its minimum.

/// The window is slots of this length: four seconds, as long as round trips are compared.
const SLOT_US: u64 = 500_000;
const SLOTS: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    least_us: i64,
    most_us: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WindowedRange {
    slots: [Option<Slot>; SLOTS],
}

impl WindowedRange {
    pub(crate) fn observe(&mut self, value_us: i64, now_us: u64) {
        let number = now_us / SLOT_US;
        match &mut self.slots[number as usize % SLOTS] {
            Some(slot) if slot.number == number => {
                slot.least_us = slot.least_us.min(value_us);
                slot.most_us = slot.most_us.max(value_us);
            }
            place => {
                *place = Some(Slot {
                    number,
                    least_us: value_us,
                    most_us: value_us,
                });
            }
        }
    }

    /// The range at `now_us`; 0 if nothing was observed lately.
    pub(crate) fn range_us(&self, now_us: u64) -> u64 {
        let oldest = (now_us / SLOT_US).saturating_sub(SLOTS as u64 - 1);
        let recent = self.slots.iter().flatten().filter(|slot| slot.number >= oldest);
        let (least_us, most_us) = recent.fold((i64::MAX, i64::MIN), |(least_us, most_us), slot| {
            (least_us.min(slot.least_us), most_us.max(slot.most_us))
        });
        most_us.saturating_sub(least_us).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_that_of_the_last_four_seconds() {
        let mut range = WindowedRange::default();
        assert_eq!(range.range_us(0), 0);
        for (at_ms, value_ms) in [(0, 90), (1000, 20), (2000, 50)] {
            range.observe(value_ms * 1000, at_ms * 1000);
        }
        assert_eq!(range.range_us(2_000_000), 70_000);
        assert_eq!(range.range_us(4_100_000), 30_000);
        assert_eq!(range.range_us(60_000_000), 0);
    }
}
