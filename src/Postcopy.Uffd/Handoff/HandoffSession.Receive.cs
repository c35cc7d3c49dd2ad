using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd;

/// <content>From a message and its descriptors to a session; everything is checked before the peer is told yes.</content>
public sealed partial class HandoffSession
{
    private const UffdFeatures Events = UffdFeatures.EventFork | UffdFeatures.EventRemap | UffdFeatures.EventRemove | UffdFeatures.EventUnmap;

    internal static HandoffSession OfPostcopy(DescriptorSocket connection, HandoffMessage message, List<SafeFileHandle> descriptors,
        int ownerProcessId, HandoffListenerOptions options)
    {
        if (descriptors.Count != message.Descriptors)
        {
            throw new HandoffException($"The hand-over says {message.Descriptors} descriptors, and {descriptors.Count} came with it.");
        }

        if ((message.Features & Events) != 0)
        {
            throw new HandoffException($"The descriptor was negotiated with {message.Features & Events}: an event that a handler reads and dies with is lost for the next. Negotiate without events.");
        }

        if ((message.Features & UffdFeatures.Sigbus) != 0)
        {
            throw new HandoffException("The descriptor was negotiated with Sigbus: it never sends a message, so there is nothing to handle.");
        }

        UffdHandle uffd = UffdHandle.FromReceived(descriptors[0], message.Features);
        HandoffState? state = null;
        HandoffSession? session = null;
        try
        {
            state = HandoffState.Open(descriptors[1], message.StateLength);
            ProcessHandle owner = ProcessHandle.FromReceived(descriptors[2]);
            SafeFileHandle? tables = PageTablesFor(message.Blocks, ownerProcessId, uffd);
            session = new HandoffSession(connection, options, uffd, state, owner, tables, ownerProcessId);
            session.AddBlocks(message.Blocks, state, descriptors);
            session.CloseUnused(descriptors);
            session.Generation = state.Read(HandoffState.Word.Generation) + 1;
            using ProcessHandle self = ProcessHandle.OfThisProcess();
            connection.Send(new HandoffAnswer(true, string.Empty).Encode(), [self.Descriptor], options.Patience);
            state.Write(HandoffState.Word.Generation, session.Generation);
            return session;
        }
        catch
        {
            session?.Abandon();
            state?.Dispose();
            uffd.Dispose();
            throw;
        }
    }

    internal static HandoffSession OfFirecracker(DescriptorSocket connection, byte[] message, List<SafeFileHandle> descriptors,
        int ownerProcessId, HandoffListenerOptions options)
    {
        if (descriptors.Count != 1)
        {
            throw new HandoffException($"{descriptors.Count} descriptors came with Firecracker's handshake; it sends one, its userfaultfd.");
        }

        IReadOnlyList<HandoffBlock> blocks = FirecrackerMessage.Decode(message);
        ProcessHandle? owner = ownerProcessId > 0 ? ProcessHandle.TryOpen(ownerProcessId, out _) : null;
        UffdHandle? uffd = null;
        HandoffSession? session = null;
        try
        {
            uffd = UffdHandle.FromReceived(descriptors[0], UffdFeatures.EventRemove);
            SafeFileHandle? tables = PageTablesFor(blocks, ownerProcessId, uffd);
            session = new HandoffSession(connection, options, uffd, state: null, owner, tables, ownerProcessId);
            session.AddBlocks(blocks, state: null, descriptors);
            return session;
        }
        catch
        {
            session?.Abandon();
            uffd?.Dispose();
            owner?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Private huge pages: only the page tables can tell "already present" from "the pool is empty" (hazard H7), and they
    /// are the owner's.
    /// </summary>
    private static SafeFileHandle? PageTablesFor(IReadOnlyList<HandoffBlock> blocks, int owner, UffdHandle uffd)
    {
        HandoffBlock? huge = blocks.FirstOrDefault(b => b.PageSize != PageSize.Host);
        if (huge is null)
        {
            return null;
        }

        SafeFileHandle tables = PageTables.OfProcess(owner);
        if (!tables.IsInvalid)
        {
            uffd.ReadPageTablesOf(tables);
            return tables;
        }

        return blocks.Any(b => b.PageSize != PageSize.Host && (!b.Shared || (b.Modes & UffdModes.Minor) == 0))
            ? throw new HandoffException($"Block '{huge.Name}' has pages of {huge.PageSize}, and /proc/{owner}/pagemap cannot be read: run the handler as the owner's user (or with CAP_SYS_PTRACE), or use shared huge pages registered for minor faults.")
            : null;
    }

    private void AddBlocks(IReadOnlyList<HandoffBlock> blocks, HandoffState? state, List<SafeFileHandle> descriptors)
    {
        foreach (HandoffBlock described in blocks)
        {
            PageBitmap received = state is null
                ? new PageBitmap(described.PageCount)
                : new PageBitmap(described.PageCount, state.AddressOf(described.BitmapOffset));
            RamBlock block = Blocks.AddForeign(described.Name, described.Range, described.PageSize, described.Shared, received);
            block.Attach(_uffd, described.Modes, described.Operations & ~UffdOperations.Move);
            _described.Add(block, described);
            if (described.Memory >= 0)
            {
                _files[block] = descriptors[described.Memory];
            }
        }
    }

    private void CloseUnused(List<SafeFileHandle> descriptors)
    {
        foreach (SafeFileHandle descriptor in descriptors.Skip(HandoffMessage.FixedDescriptors))
        {
            if (!_files.ContainsValue(descriptor))
            {
                descriptor.Dispose();
            }
        }
    }

    /// <summary>It never began: the connection stays the caller's, who says why over it.</summary>
    private void Abandon()
    {
        _reader.Dispose();
        Blocks.Dispose();
        _ownerPageTables?.Dispose();
    }
}
