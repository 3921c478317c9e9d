//! The order of all locks.

/// What a lock guards, and with that its place in the order: outermost first. A thread that holds
/// one takes only those that stand below it here.
///
/// Three kinds of neighbours decide most of it: what asks for a checkpoint while it is held stands
/// above [`Rank::Checkpoint`]; what a change of a tree needs stands below [`Rank::Gate`]; and what
/// any other may need, memory and the log file, stands last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A test's own, around what it tests.
    Test,

    // The process.
    /// Whether the daemon's workers are to end.
    WorkersStop,
    /// The request that a connection has in flight.
    ControlRequest,
    /// Jobs of the control socket.
    Jobs,
    /// Sessions by mount.
    Sessions,
    /// Mounts that are being ended.
    Ending,
    /// A session's connection to the kernel.
    SessionConnection,
    /// Whether a session has ended.
    SessionEnd,
    /// The audit log's file.
    AuditFile,

    // The service, and the catalog's changes: whole use-cases, with checkpoints and calls of key
    // services within.
    /// The list of root secrets, from reading to writing it.
    RootSecrets,
    /// The file of mount records.
    MountRecords,
    /// The table of mounts.
    Mounts,
    /// The time that snapshots expire by, and its file.
    Expiry,
    /// No key is deleted while a header comes under it.
    KeyDeletions,
    /// One change of the catalog at a time.
    CatalogChanges,
    /// The anchor's file.
    Anchor,
    /// Why the keyring cannot be used.
    KeyringProblem,
    /// The keyring, once it is there.
    KeyringPlace,
    /// Key services by scheme.
    KeyRegistry,
    /// The last answers of key services.
    KeyAnswers,
    /// One change of the keyring's file at a time.
    KeyringWriter,
    /// The keyring as read.
    KeyringState,

    // A volume, above what changes trees: a write may have to wait for a checkpoint.
    /// How the kernel has files open.
    OpenModes,
    /// Inodes of which the kernel is to ask again.
    Invalidations,
    /// Who hands a volume's buffers to its head.
    HeadBridge,
    /// Inodes that wait to be freed.
    ReaperQueue,
    /// Whether operations are under way in a volume that is being locked.
    Presence,
    /// Open handles.
    Handles,
    /// One rename of a directory at a time.
    Renames,
    /// Changes of one inode's content, over their I/O; by inode number.
    InodeOperation,
    /// One drain ahead of time.
    Drainer,
    /// Numbers for new inodes; held over the change that takes more of them.
    InodeNumbers,

    // The pool, and the change of a tree.
    /// One checkpoint at a time.
    Checkpoint,
    /// The open interval: shared by each change, exclusive at a cut.
    Gate,
    /// Heads that take part in cuts.
    Participants,
    /// Who gives the catalog its meaning.
    Keeper,
    /// Who buffers above a head.
    HeadBuffers,
    /// A volume's buffers: shared by what changes them, exclusive at a cut or commit.
    BufferGate,
    /// Inodes in memory, by number.
    InodeShard,
    /// What is known of one inode; by inode number.
    InodeState,
    /// Lookups that the kernel holds.
    Lookups,
    /// How many write to an inode.
    Writers,
    /// Inodes with something that the tree has not.
    DirtyInodes,
    /// A head's tree.
    HeadTree,
    /// Under which key a head is sealed.
    HeadIdentity,
    /// A head's log.
    HeadLog,
    /// The catalog in memory.
    CatalogState,
    /// The catalog's tree, as it is durable.
    CatalogTree,
    /// When the last checkpoint was.
    LastCheckpoint,
    /// The wraps of the engine key that are durable.
    EngineWraps,

    // Blocks.
    /// One write of a node at a time; downwards, from the root.
    NodeWriting,
    /// The book that node writes are booked in.
    NodeBook,
    /// Space entries of an interval.
    Book,
    /// One write of images to their places at a time.
    ImageWriting,
    /// Ciphertext on its way to its place.
    Images,
    /// What the disk beneath has given.
    Backing,
    /// Regions and allocation.
    Space,
    /// Readers by interval.
    Readers,
    /// Cached nodes.
    NodeCache,
    /// Blocks in memory, in place of a pool.
    MemoryStore,
    /// Data blocks in memory, in place of a pool.
    MemoryBlocks,
    /// When the next checkpoint is due.
    Due,
    /// Flushes under way.
    Flushes,
    /// Why the pool takes no changes.
    PoolFailure,
    /// What a layer around a simulated disk watches for or lets fail.
    AroundDevice,
    /// A simulated disk.
    Device,

    // What any of the above may need.
    /// What a stand-in keeps for a test.
    StandIn,
    /// The log of the process.
    LogSink,
    /// Erased memory, kept for the next buffer.
    KeptMemory,
    /// Memory for keys.
    SecretMemory,
}
