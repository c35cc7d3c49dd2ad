using System.Runtime.InteropServices;
using Postcopy.Uffd;

// Guest memory, and a destination that serves its faults and measures how long the "vCPU" stood still.
using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 1 << 20 });
await using PostcopyDestination destination = new(new PostcopyOptions { Blocktime = new BlocktimeOptions() });
RamBlock ram = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
using PageRequestQueue requests = new();
destination.Advise();
destination.Listen(requests);
destination.Run();

// A vCPU touches a page that is not there: it waits in native code, so no garbage collection waits for it.
Task vcpu = Task.Run(() =>
{
    destination.Blocktime!.AddVcpu(HostThread.CurrentId);
    byte[] greeting = new byte[5];
    memory.Read(0x5000, greeting);
    Console.WriteLine($"the vCPU read '{System.Text.Encoding.ASCII.GetString(greeting)}'");
});

// The transport: one request comes for the page, however many threads wait; its content is placed and wakes them.
requests.TryTake(Timeout.InfiniteTimeSpan, out PageRequest wanted);
Console.WriteLine($"{wanted.Length} bytes wanted at offset 0x{wanted.Offset:x} of '{wanted.Block.Name}'");
unsafe
{
    byte* page = (byte*)NativeMemory.AllocZeroed((nuint)wanted.Length);
    "hello"u8.CopyTo(new Span<byte>(page, 5));
    Console.WriteLine(destination.Placer.Place(ram, wanted.Offset, (nuint)page, wanted.Length));
    NativeMemory.Free(page);
}

await vcpu;
destination.Placer.PlaceZero(ram, 0, ram.UsedLength);
CompletionReport report = await destination.CompleteAsync();
Console.WriteLine($"the guest stood still for {report.Blocktime!.TotalNanoseconds / 1000} us; {report.Faults.Requests} page was asked for");
