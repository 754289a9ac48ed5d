//! Makes frames of a disk: of the layers that a guest has written since it was cloned.

use std::path::Path;

use vm_images::Digest;
use vm_images::qcow2::{Layer, Mapping};

use super::classify::Classifier;
use super::pipeline::{Feed, Outlet};
use super::source::{Gatherer, begin};
use super::{BLOCK_BYTES, Base, DiskBase, Error, Frame, Report, Source, Space, classify::Sent};

/// A disk that was begun.
pub(super) struct Open<'a> {
    base: u16,
    blocks: u64,
    classifier: Classifier<'a>,
}

impl Source<'_> {
    /// Begins the disk that is layered on the image disk `base` (a digest among the images). What was sent of a disk before
    /// is void.
    pub fn begin_disk(&mut self, base: &Digest, outlet: &mut dyn Outlet) -> Result<(), Error> {
        let (number, path) = self.part(Some(base))?.ok_or(Error::NoSuchPart { digest: *base })?;
        let disk = DiskBase::open(path)?;
        let blocks = disk.blocks();
        if blocks > u64::from(u32::MAX) {
            let most = u64::from(u32::MAX) * BLOCK_BYTES as u64;
            return Err(Error::TooLarge { what: "a disk", bytes: disk.virtual_bytes(), most });
        }
        let images = self.images();
        let classifier = Classifier::new(Space::Disk, images, Box::new(disk));
        self.disk = Some(Open { base: number, blocks, classifier });
        self.run(outlet, |feed, sent, _| feed.frame(begin(images, Space::Disk, blocks, Some(number), sent)))?;
        Ok(())
    }

    /// Sends what a layer holds: one that is frozen by an external snapshot, or the last one of a paused guest. Layers
    /// come in the order in which they were written. Clusters that the guest has discarded are said to be zero.
    pub fn disk_layer(&mut self, path: &Path, outlet: &mut dyn Outlet) -> Result<Report, Error> {
        let mut layer = Layer::open(path)?;
        let (mut report, totals) = self.run(outlet, |feed, sent, disk| {
            let disk = disk.as_mut().ok_or(NOT_BEGUN)?;
            let report = disk.layer(&mut layer, sent, feed)?;
            Ok(Report { differing: disk.classifier.differences().len().into(), ..report })
        })?;
        report.add(&totals);
        Ok(report)
    }

    /// Sends what can be read of a layer that a running guest writes to: brings blocks early and completes nothing. The
    /// disk must be begun anew, and its layer sent when the guest is paused, with this same source.
    pub fn disk_live(&mut self, path: &Path, outlet: &mut dyn Outlet) -> Result<Report, Error> {
        let Ok(mut layer) = Layer::open(path) else { return Ok(Report::default()) };
        let (mut report, totals) = self.run(outlet, |feed, sent, disk| {
            let disk = disk.as_mut().ok_or(NOT_BEGUN)?;
            let mut gatherer = Gatherer::new(Space::Disk, sent);
            match disk.gather(&mut layer, &mut gatherer, sent, feed) {
                // Half a table may have been read while it was written.
                Ok(()) | Err(Error::Disk(_)) => {}
                Err(error) => return Err(error),
            }
            gatherer.flush(sent, feed)?;
            Ok(gatherer.report)
        })?;
        report.add(&totals);
        Ok(report)
    }

    /// All layers were sent; says what must have come out, to the sink and here: the hash of the blocks that differ.
    pub fn end_disk(&mut self, outlet: &mut dyn Outlet) -> Result<[u8; 32], Error> {
        let images = self.images();
        let (root, _) = self.run(outlet, |feed, _, disk| {
            let disk = disk.take().ok_or(NOT_BEGUN)?;
            let differences = disk.classifier.differences();
            let base = images.digests().nth(disk.base.into());
            let root = differences.root(base, disk.blocks);
            feed.frame(Frame::End { space: Space::Disk, differing: differences.len(), root })?;
            Ok(root)
        })?;
        Ok(root)
    }
}

const NOT_BEGUN: Error = Error::Incomplete { space: Space::Disk, missing: "its beginning" };

impl Open<'_> {
    fn layer(&mut self, layer: &mut Layer, sent: &mut Sent, feed: &mut Feed) -> Result<Report, Error> {
        let mut gatherer = Gatherer::new(Space::Disk, sent);
        self.gather(layer, &mut gatherer, sent, feed)?;
        gatherer.flush(sent, feed)?;
        Ok(gatherer.report)
    }

    fn gather(
        &mut self,
        layer: &mut Layer,
        gatherer: &mut Gatherer,
        sent: &mut Sent,
        feed: &mut Feed,
    ) -> Result<(), Error> {
        let cluster_bytes = layer.header().cluster_bytes;
        let found = layer.header().virtual_bytes.div_ceil(BLOCK_BYTES as u64);
        if found != self.blocks || !cluster_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(Error::OtherBase { space: Space::Disk, found, base: self.blocks });
        }
        let mut content = vec![0; cluster_bytes as usize];
        let mut next = 0;
        while let Some((cluster, mapping)) = layer.next_held(next)? {
            next = cluster + 1;
            match mapping {
                Mapping::Data(offset) => layer.read_file(offset, &mut content)?,
                Mapping::Zero | Mapping::Unallocated => content.fill(0),
            }
            let first = cluster * (cluster_bytes / BLOCK_BYTES as u64);
            // A disk that does not end with a whole block: what is behind its end is nobody's, so it is zero.
            let end = layer.header().virtual_bytes.saturating_sub(cluster * cluster_bytes);
            content[(end.min(cluster_bytes)) as usize..].fill(0);
            let (blocks, _) = content.as_chunks::<BLOCK_BYTES>();
            for (block, page) in (first..self.blocks).zip(blocks) {
                gatherer.report.seen += 1;
                gatherer.block(block as u32, page, &mut self.classifier, sent, feed)?;
            }
        }
        Ok(())
    }
}
