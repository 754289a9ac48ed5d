//! The thread that unpacks, checks and writes blocks.

use std::sync::Arc;

use tokio::sync::mpsc;
use vm_images::store::{self, Incoming};

use super::layout::Layout;
use super::link::{Event, Parcel, What};
use super::packing::Unpacker;

/// Takes parcels until nobody sends any more, and gives the image back.
pub(super) fn run(
    mut incoming: Incoming,
    layout: &Arc<Layout>,
    mut parcels: mpsc::Receiver<Parcel>,
    events: &mpsc::Sender<Event>,
) -> std::io::Result<Incoming> {
    let mut unpacker = Unpacker::new()?;
    while let Some(parcel) = parcels.blocking_recv() {
        let Parcel { node, link, flat, packing, content, wire_bytes, at } = parcel;
        let what = match layout.place(flat) {
            None => What::Wrong,
            Some((role, block, length)) => match unpacker.unpack(packing, content, length as usize) {
                None => What::Wrong,
                Some(content) => match incoming.write_block(role, block, &content) {
                    Ok(()) => What::Kept { flat, wire_bytes, at },
                    Err(store::Error::WrongBlock { .. }) => What::Wrong,
                    Err(error) => What::Store(error),
                },
            },
        };
        let is_over = matches!(what, What::Store(_));
        if events.blocking_send(Event { node, link, what }).is_err() || is_over {
            break;
        }
    }
    Ok(incoming)
}
