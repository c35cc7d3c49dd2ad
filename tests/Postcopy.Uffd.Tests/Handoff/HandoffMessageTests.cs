using System.Buffers.Binary;
using System.Text;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Handoff;

/// <summary>What a peer may send, and what becomes of everything else.</summary>
public sealed class HandoffMessageTests
{
    private const int Limit = 60_000;
    private const int FirstBlock = HandoffMessage.HeaderBytes;

    private static HandoffBlock Block(string name = "pc.ram") =>
        new(name, new AddressRange(unchecked((nuint)0x7000_0000_0000UL), 1 << 20), PageSize.Host, 12288, UffdModes.Missing,
            UffdOperations.Copy | UffdOperations.Wake, HandoffState.HeaderBytes, -1, false);

    private static byte[] Message() => new HandoffMessage(UffdFeatures.Poison, 65536, [Block(), Block("second\u00e9") with { Range = new AddressRange(unchecked((nuint)0x7100_0000_0000UL), 1 << 20), Memory = 3, Shared = true, BitmapOffset = 4160 }], 4).Encode();

    [Fact]
    public void AMessageSaysTheSameAfterItsJourney()
    {
        byte[] bytes = Message();
        Assert.Equal(bytes.Length, HandoffMessage.LengthOf(bytes));
        HandoffMessage message = HandoffMessage.Decode(bytes);
        Assert.Equal(UffdFeatures.Poison, message.Features);
        Assert.Equal(65536, message.StateLength);
        Assert.Equal(4, message.Descriptors);
        Assert.Equal(Block(), message.Blocks[0]);
        Assert.Equal("second\u00e9", message.Blocks[1].Name);
        Assert.Equal(3, message.Blocks[1].Memory);
        Assert.True(message.Blocks[1].Shared);
        Assert.Equal(bytes, message.Encode());
    }

    public static TheoryData<string, int, int, ulong, string> Defects => new()
    {
        { "magic", 0, 1, 'X', "no hand-over" },
        { "version", 8, 2, 2, "version 2" },
        { "length below", 12, 4, 63, "claims 63 bytes" },
        { "length above", 12, 4, HandoffMessage.MaxBytes + 1, "claims 1048577 bytes" },
        { "length wrong", 12, 4, 128, "cut off" },
        { "no block", 16, 4, 0, "claims 0 blocks" },
        { "too many blocks", 16, 4, 1025, "claims 1025 blocks" },
        { "a block too many", 16, 4, 3, "ends inside block 2" },
        { "a block too few", 16, 4, 1, "after its last block" },
        { "descriptors", 20, 4, 2, "claims 2 descriptors" },
        { "too many descriptors", 20, 4, 254, "claims 254 descriptors" },
        { "state", 32, 8, 1, "state of 1 bytes" },
        { "state negative", 32, 8, 1UL << 63, "a state of" },
        { "address", FirstBlock, 8, 0x7000_0000_0001, "whole pages" },
        { "address beyond", FirstBlock, 8, ulong.MaxValue - 4095, "outside of any address space" },
        { "size", FirstBlock + 8, 8, 4097, "whole pages" },
        { "size zero", FirstBlock + 8, 8, 0, "outside of any address space" },
        { "size absurd", FirstBlock + 8, 8, 1UL << 60, "outside of any address space" },
        { "page size", FirstBlock + 16, 8, 5000, "pages of 5000 bytes" },
        { "page size small", FirstBlock + 16, 8, 512, "pages of 512 bytes" },
        { "page size large", FirstBlock + 16, 8, 1UL << 40, "pages of 1099511627776 bytes" },
        { "source", FirstBlock + 24, 8, ulong.MaxValue, "offset -1 of the source" },
        { "modes", FirstBlock + 32, 8, 2, "without missing faults" },
        { "operations", FirstBlock + 40, 8, 4, "COPY does not work" },
        { "bitmap in the header", FirstBlock + 48, 8, 64, "bitmap of block 'pc.ram'" },
        { "bitmap beyond", FirstBlock + 48, 8, 65536, "bitmap of block 'pc.ram'" },
        { "bitmap unaligned", FirstBlock + 48, 8, 4097, "bitmap of block 'pc.ram'" },
        { "memory", FirstBlock + 56, 4, 4, "descriptor 4 of 4" },
        { "memory is the userfaultfd", FirstBlock + 56, 4, 0, "descriptor 0 of 4" },
        { "name empty", FirstBlock + 62, 2, 0, "with 0 bytes" },
        { "name beyond", FirstBlock + 62, 2, 255, "ends inside the name" },
        { "name not UTF-8", FirstBlock + 64, 1, 0xff, "not UTF-8" },
    };

    [Theory]
    [MemberData(nameof(Defects))]
    public void ADefectIsNamedWithItsValue(string what, int offset, int bytes, ulong value, string expected)
    {
        byte[] message = Message();
        byte[] wrong = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(wrong, value);
        wrong.AsSpan(0, bytes).CopyTo(message.AsSpan(offset));
        HandoffException e = Assert.Throws<HandoffException>(() => HandoffMessage.Decode(message));
        Assert.True(e.Message.Contains(expected, StringComparison.Ordinal), $"{what}: {e.Message}");
    }

    [Fact]
    public void NoBytesBringAnythingButAMessageOrARefusal()
    {
        Random random = new(7);
        byte[] good = Message();
        byte[] json = Encoding.UTF8.GetBytes("[{\"base_host_virt_addr\":140000000000000,\"size\":1048576,\"offset\":0,\"page_size\":4096,\"page_size_kib\":4096}]");
        Assert.Single(FirecrackerMessage.Decode(json));
        int refused = 0;
        for (int i = 0; i < 20_000; i++)
        {
            byte[] bytes = [.. i % 2 == 0 ? good : json];
            for (int n = random.Next(1, 4); n > 0; n--)
            {
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            }

            if (random.Next(8) == 0)
            {
                bytes = bytes[..random.Next(bytes.Length)];
            }

            try
            {
                if (i % 2 == 0)
                {
                    _ = HandoffMessage.Decode(bytes);
                }
                else
                {
                    _ = FirecrackerMessage.IsWhole(bytes);
                    _ = FirecrackerMessage.Decode(bytes);
                }
            }
            catch (HandoffException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, 5_000, 19_999);
    }

    [Theory]
    [InlineData("[{\"base_host_virt_addr\":4096,\"size\":8192,\"offset\":0,\"page_size\":4096,\"page_size_kib\":4096}]", 4096)]
    [InlineData("[{\"base_host_virt_addr\":2097152,\"size\":2097152,\"offset\":0,\"page_size_kib\":2097152}]", 2 << 20)]
    [InlineData("[{\"base_host_virt_addr\":2097152,\"size\":2097152,\"offset\":0,\"page_size_kib\":2048}]", 2 << 20)]
    [InlineData("[{\"base_host_virt_addr\":4096,\"size\":8192,\"offset\":0,\"new\":{\"deep\":[1,2]}}]", 4096)]
    public void FirecrackersPageSizeIsBytesUnderEitherName(string json, int expected)
    {
        Assert.True(FirecrackerMessage.IsWhole(Encoding.UTF8.GetBytes(json)));
        Assert.False(FirecrackerMessage.IsWhole(Encoding.UTF8.GetBytes(json[..^1])));
        Assert.Equal(expected, Assert.Single(FirecrackerMessage.Decode(Encoding.UTF8.GetBytes(json))).PageSize.Bytes);
    }

    [Theory]
    [InlineData("[]", "no region")]
    [InlineData("{}", "not an array")]
    [InlineData("[1]", "an object")]
    [InlineData("[{\"size\":8192,\"offset\":0}]", "no base_host_virt_addr")]
    [InlineData("[{\"base_host_virt_addr\":-4096,\"size\":8192,\"offset\":0}]", "no whole number")]
    [InlineData("[{\"base_host_virt_addr\":4096,\"size\":8193,\"offset\":0}]", "whole pages")]
    [InlineData("[{\"base_host_virt_addr\":4096,\"size\":8192,\"offset\":0,\"page_size\":3000}]", "pages of")]
    [InlineData("[{\"base_host_virt_addr\":4096,\"size\":8192,\"offset\":18446744073709551615}]", "offset")]
    public void FirecrackersDefectsAreNamed(string json, string expected) =>
        Assert.Contains(expected, Assert.Throws<HandoffException>(() => FirecrackerMessage.Decode(Encoding.UTF8.GetBytes(json))).Message, StringComparison.Ordinal);

    /// <summary>Over the real socket: refused with a reason, the door stays open, and whoever waits is served by the next handler.</summary>
    [Fact(Timeout = Limit)]
    public async Task RefusedPeersLoseNothingAndTheNextOneIsServed() => await Task.Run(() =>
    {
        using HandoffBench bench = new(listen: o => o with { Patience = TimeSpan.FromMilliseconds(300) });
        FaultingThread waiting = bench.Read(2);
        Task<HandoffSession> accepting = Task.Run(() => bench.Listener.Accept());
        using SafeFileHandle none = Libc.open("/dev/null", Libc.O_RDONLY);
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        _ = uffd.Negotiate();
        using HandoffState state = HandoffState.Create(65536);
        using SafeFileHandle unsealed = Libc.memfd_create("unsealed", Libc.MFD_CLOEXEC);
        Assert.Equal(0, Libc.ftruncate(unsealed, 65536));
        using ProcessHandle self = ProcessHandle.OfThisProcess();
        byte[] good = new HandoffMessage(UffdFeatures.None, 65536, [Block()], 3).Encode();
        byte[] longer = new HandoffMessage(UffdFeatures.None, 65536 * 2, [Block()], 3).Encode();
        byte[] events = new HandoffMessage(UffdFeatures.EventRemove, 65536, [Block()], 3).Encode();
        byte[] twice = new HandoffMessage(UffdFeatures.None, 65536, [Block(), Block()], 3).Encode();
        byte[] overlap = new HandoffMessage(UffdFeatures.None, 65536, [Block(), Block("other")], 3).Encode();

        AssertRefused(bench, "GET / HTTP/1.1\r\nHost: a very ordinary web client, of all things\r\n\r\n"u8.ToArray(), [], "no hand-over");
        AssertRefused(bench, "[{\"size\":1}]"u8.ToArray(), [uffd], "does not accept");
        AssertRefused(bench, good[..20], [uffd, state.File, self.Descriptor], "sent nothing");
        AssertRefused(bench, good, [], "0 came with it");
        AssertRefused(bench, good, [uffd, state.File], "2 came with it");
        AssertRefused(bench, good, [none, state.File, self.Descriptor], "no userfaultfd");
        AssertRefused(bench, good, [uffd, none, self.Descriptor], "sealed");
        AssertRefused(bench, good, [uffd, unsealed, self.Descriptor], "sealed");
        AssertRefused(bench, good, [uffd, state.File, none], "no pidfd");
        AssertRefused(bench, longer, [uffd, state.File, self.Descriptor], "65536 bytes, and the hand-over says 131072");
        AssertRefused(bench, events, [uffd, state.File, self.Descriptor], "EventRemove");
        AssertRefused(bench, twice, [uffd, state.File, self.Descriptor], "two RAM blocks 'pc.ram'");
        AssertRefused(bench, overlap, [uffd, state.File, self.Descriptor], "overlaps");
        int open = Directory.GetFileSystemEntries("/proc/self/fd").Length;
        for (int i = 0; i < 10; i++)
        {
            AssertRefused(bench, good, [uffd, unsealed, self.Descriptor], "sealed");
        }

        // Other tests run beside this one; ten refusals that kept their descriptors would be thirty.
        Assert.InRange(Directory.GetFileSystemEntries("/proc/self/fd").Length, 0, open + 20);

        HandlerConnection connection = bench.Owner.Connect(bench.Path);
        using HandoffHandler handler = new(accepting.WaitAsync(Deadline.Default).GetAwaiter().GetResult(), serve: true);
        Assert.Equal(DestinationBench.FirstByte(2), (byte)waiting.Result);
        handler.PlaceAll();
        Assert.Equal(HandlerEnd.NothingMissing, connection.Ended.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
    });

    [Fact(Timeout = Limit)]
    public async Task TheOwnerHearsWhyItIsRefused() => await Task.Run(() =>
    {
        using HandoffBench bench = new(listen: o => o with { AcceptPostcopy = false, AcceptFirecracker = true });
        using CancellationTokenSource stop = new();
        Task accepting = Task.Run(() => bench.Listener.Accept(stop.Token));
        HandoffException e = Assert.Throws<HandoffException>(() => bench.Owner.Connect(bench.Path));
        Assert.Contains("refuses: The peer does not speak as Firecracker", e.Message, StringComparison.Ordinal);
        stop.Cancel();
        Assert.ThrowsAny<OperationCanceledException>(() => accepting.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
    });

    [Fact]
    public void AnAnswerSaysTheSameAfterItsJourney()
    {
        byte[] bytes = new HandoffAnswer(false, "no room").Encode();
        Assert.Equal(bytes.Length, HandoffAnswer.LengthOf(bytes));
        Assert.Equal(new HandoffAnswer(false, "no room"), HandoffAnswer.Decode(bytes));
        bytes[20]++;
        Assert.Throws<HandoffException>(() => HandoffAnswer.Decode(bytes));
        bytes[0] = 0;
        Assert.Throws<HandoffException>(() => HandoffAnswer.LengthOf(bytes));
    }

    private static void AssertRefused(HandoffBench bench, byte[] message, System.Runtime.InteropServices.SafeHandle[] descriptors, string expected)
    {
        using DescriptorSocket peer = DescriptorSocket.Connect(bench.Path);
        peer.Send(message, descriptors, Deadline.Default);
        byte[] bytes = new byte[HandoffAnswer.MaxBytes];
        List<SafeFileHandle> none = [];
        int n = peer.Receive(bytes, none, Deadline.Default);
        HandoffAnswer answer = HandoffAnswer.Decode(bytes.AsSpan(0, n));
        Assert.False(answer.Accepted);
        Assert.Empty(none);
        Assert.True(answer.Text.Contains(expected, StringComparison.Ordinal), answer.Text);
    }
}
