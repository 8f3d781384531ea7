//! Bytes on their way: what comes is put behind what is there, and taken from its front.

/// A queue of bytes in one piece of memory, which grows and is used again.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// What is there is between the two; what is behind them is room.
    bytes: Vec<u8>,
    at: usize,
    end: usize,
}

impl Buffer {
    /// Whether nothing is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// How much is there.
    pub(crate) fn len(&self) -> usize {
        self.end - self.at
    }

    /// What is there.
    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    /// So much of its front has been taken.
    pub(crate) fn taken(&mut self, size: usize) {
        self.at = self.end.min(self.at + size);
    }

    /// As [`Buffer::taken`]: what that was.
    pub(crate) fn take(&mut self, size: usize) -> &[u8] {
        let from = self.at;
        self.taken(size);
        &self.bytes[from..self.at]
    }

    /// Where so much more can be put; [`Buffer::filled`] says how much was.
    pub(crate) fn room(&mut self, size: usize) -> &mut [u8] {
        if self.is_empty() {
            (self.at, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < size {
            self.make_room(size);
        }
        &mut self.bytes[self.end..self.end + size]
    }

    fn make_room(&mut self, size: usize) {
        let there = self.at..self.end;
        let len = there.len();
        if self.bytes.len() < len + size {
            // Zeroed memory costs nothing before it is touched; twice as much of it, so that what is there is not moved each time.
            let mut wider = vec![0; 2 * (len + size)];
            wider[..len].copy_from_slice(&self.bytes[there]);
            self.bytes = wider;
        } else {
            self.bytes.copy_within(there, 0);
        }
        (self.at, self.end) = (0, len);
    }

    /// So much of the room holds something now.
    pub(crate) fn filled(&mut self, size: usize) {
        self.end = self.bytes.len().min(self.end + size);
    }

    /// Puts these behind what is there.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.filled(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out_in_order(deeds in prop::collection::vec((0..50_usize, 0..20_usize, 0..60_usize), 0..60)) {
            let (mut buffer, mut model, mut next) = (Buffer::default(), VecDeque::new(), 0_u8);
            for (put, unused, take) in deeds {
                let room = buffer.room(put + unused);
                for place in &mut room[..put] {
                    *place = next;
                    model.push_back(next);
                    next = next.wrapping_add(1);
                }
                buffer.filled(put);
                prop_assert_eq!(buffer.len(), model.len());
                let wanted: Vec<u8> = model.drain(..take.min(model.len())).collect();
                prop_assert_eq!(buffer.take(take), &wanted);
                prop_assert_eq!(buffer.front(), model.make_contiguous());
                prop_assert_eq!(buffer.is_empty(), model.is_empty());
            }
        }
    }
}
