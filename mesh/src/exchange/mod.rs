//! Fetching images from one another: the deciding half. What opens streams and files is in the node.
//!
//! * [`plan`]: which blocks to ask whom for, when to give up on a peer, when to come back to it.
//! * [`wire`]: the frames.
//! * [`pace`]: how fast: below what people notice.
//! * [`policy`]: which images a node should hold by the mission's profile.
//!
//! ```text
//!  fetcher                                             holder
//!     | Manifest{image}  ----------------------------->  |
//!     |  <-------------------- Manifest{bytes, signature} |   id, signer and form are checked, then written down
//!     | List{image, part, first, count}  ------------->  |
//!     |  <------------------------------ List{values}    |   checked against the digest in the manifest
//!     | Blocks{image, part, runs}  ------------------->  |   several in flight, from several holders
//!     | Blocks{image, part, runs}  ------------------->  |
//!     |  <------------------------------ Block{content}  |   checked one by one against the list
//!     |  <------------------------------ Block{content}  |
//! ```
//!
//! Requests are answered in order. Nothing is pushed: who asks for nothing gets nothing, so a stream that is not read
//! costs the holder one buffer. A holder that sends what was not asked for, or what is not true, is not asked again.
//!
//! Everybody who holds an image holds all of it (adverts name whole images), so there is no rarest block: blocks are
//! asked for in the order of the manifest, which keeps the reads of every holder in a row.

pub mod pace;
pub mod plan;
pub mod policy;
pub mod wire;

pub use pace::Pace;
pub use plan::Plan;
