using System.Reflection;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Interop;

/// <summary>
/// Our constants and structs against a C compiler and the machine's headers; what those headers are too old for is
/// checked by the ioctl formula and listed in the output.
/// </summary>
public sealed class AbiTests(ITestOutputHelper output)
{
    public static TheoryData<Architecture> Architectures => [Architecture.X64, Architecture.Arm64];

    [Theory]
    [MemberData(nameof(Architectures))]
    public void ConstantsAgreeWithTheHeaders(Architecture architecture)
    {
        string compiler = CompilerOf(architecture);
        HashSet<string> defined = CHeaders.DefinedMacros(compiler);
        // The _UFFDIO_x numbers stand in parentheses and are macros as well.
        (string Name, Int128 Value)[] all = [.. CHeaders.InteropConstants(architecture), .. CHeaders.EnumConstants(), .. CHeaders.OperationBits()];
        (string Name, Int128 Value)[] known = [.. all.Where(c => defined.Contains(c.Name))];

        (int code, string errors) = CHeaders.Compile(known.Select(c => CHeaders.ConstantAssertion(c.Name, c.Value)), compiler);

        output.WriteLine($"{known.Length} of {all.Length} constants are in the headers of {architecture}. Not there, so not proved by them:");
        foreach ((string name, Int128 value) in all.Except(known))
        {
            output.WriteLine($"  {name} = 0x{(ulong)value:x}");
        }

        Assert.True(code == 0, errors);
        Assert.True(known.Length > 100, $"Only {known.Length} constants were compared; is the list empty?");
        Assert.Contains(known, c => c.Name == "SYS_userfaultfd");
    }

    [Theory]
    [MemberData(nameof(Architectures))]
    public void StructLayoutsAgreeWithTheHeaders(Architecture architecture)
    {
        string compiler = CompilerOf(architecture);
        Type[] all = [.. CHeaders.Structs()];
        Type[] known = [.. all.Where(t => CHeaders.Knows(t, compiler))];

        (int code, string errors) = CHeaders.Compile([.. known.SelectMany(CHeaders.StructAssertions), .. MessageAssertions()], compiler);

        output.WriteLine($"Compared: {string.Join(", ", known.Select(CHeaders.CName))}, struct uffd_msg.");
        output.WriteLine($"Not in the headers: {string.Join(", ", all.Except(known).Select(CHeaders.CName))}.");
        Assert.True(code == 0, errors);
        Assert.Contains(typeof(Userfaultfd.uffdio_copy), known);
    }

    [Fact]
    public void AWrongConstantOrOffsetDoesNotCompile()
    {
        Requires.Tool(CHeaders.Compiler, "gcc libc6-dev");

        Assert.NotEqual(0, CHeaders.Compile([CHeaders.ConstantAssertion("UFFDIO_COPY", Userfaultfd.UFFDIO_ZEROPAGE)]).Code);
        Assert.NotEqual(0, CHeaders.Compile(["_Static_assert(offsetof(struct uffdio_copy, mode) == 16, \"\");"]).Code);
    }

    [Theory]
    [InlineData(nameof(Userfaultfd.UFFDIO_REGISTER), 0x00, typeof(Userfaultfd.uffdio_register), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_UNREGISTER), 0x01, typeof(Userfaultfd.uffdio_range), ReadOnly)]
    [InlineData(nameof(Userfaultfd.UFFDIO_WAKE), 0x02, typeof(Userfaultfd.uffdio_range), ReadOnly)]
    [InlineData(nameof(Userfaultfd.UFFDIO_COPY), 0x03, typeof(Userfaultfd.uffdio_copy), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_ZEROPAGE), 0x04, typeof(Userfaultfd.uffdio_zeropage), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_MOVE), 0x05, typeof(Userfaultfd.uffdio_move), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_WRITEPROTECT), 0x06, typeof(Userfaultfd.uffdio_writeprotect), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_CONTINUE), 0x07, typeof(Userfaultfd.uffdio_continue), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_POISON), 0x08, typeof(Userfaultfd.uffdio_poison), ReadWrite)]
    [InlineData(nameof(Userfaultfd.UFFDIO_API), 0x3f, typeof(Userfaultfd.uffdio_api), ReadWrite)]
    public void IoctlNumbersFollowFromTheStructSizes(string name, int number, Type argument, uint direction)
    {
        uint expected = (direction << 30) | ((uint)Marshal.SizeOf(argument) << 16) | (0xAA << 8) | (uint)number;

        object? actual = typeof(Userfaultfd).GetField(name, BindingFlags.Static | BindingFlags.NonPublic)!.GetRawConstantValue();

        Assert.Equal(expected, actual);
    }

    [Fact]
    public void MessageFieldsLieWhereTheKernelWritesThem()
    {
        Span<ulong> words = [0x12, 0x1122334455667788, 0x99aabbccddeeff00, 0xffffffff_12345678];
        UffdMessage message = MemoryMarshal.Read<UffdMessage>(MemoryMarshal.AsBytes(words));

        Assert.Equal(32, Marshal.SizeOf<UffdMessage>());
        Assert.Equal(UffdEvent.Pagefault, message.Event);
        Assert.Equal(0x1122334455667788UL, (ulong)message.Flags);
        Assert.Equal(unchecked((nuint)0x99aabbccddeeff00), message.Address);
        Assert.Equal(0x12345678u, message.ThreadId);
        Assert.Equal(0x55667788, message.ForkDescriptor);
        Assert.Equal(0x1122334455667788UL, (ulong)message.Range.Start);
        Assert.Equal(0x99aabbccddeeff00UL, (ulong)message.Range.End);
        Assert.Equal((message.Range.Start, message.Range.End, unchecked((nuint)0xffffffff_12345678)),
            (message.RemapFrom, message.RemapTo, message.RemapLength));
    }

    private const uint ReadWrite = 3;
    private const uint ReadOnly = 2;

    private static string CompilerOf(Architecture architecture)
    {
        (string compiler, string package) = architecture == Architecture.Arm64
            ? (CHeaders.Arm64Compiler, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
            : (CHeaders.Compiler, "gcc libc6-dev");
        Requires.Tool(compiler, package);
        return compiler;
    }

    private static IEnumerable<string> MessageAssertions()
    {
        (string Field, int Offset)[] fields =
        [
            ("event", 0), ("arg.pagefault.flags", 8), ("arg.pagefault.address", 16), ("arg.pagefault.feat.ptid", 24),
            ("arg.fork.ufd", 8), ("arg.remap.from", 8), ("arg.remap.to", 16), ("arg.remap.len", 24),
            ("arg.remove.start", 8), ("arg.remove.end", 16),
        ];
        return fields.Select(f => $"_Static_assert(offsetof(struct uffd_msg, {f.Field}) == {f.Offset}, \"uffd_msg.{f.Field}\");")
            .Append($"_Static_assert(sizeof(struct uffd_msg) == {UffdMessage.Size}, \"uffd_msg\");");
    }
}
