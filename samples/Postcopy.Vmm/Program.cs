using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;

using KvmSystem kvm = KvmSystem.Open();
using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 32 << 20 });
int vcpus = args.Length > 0 ? int.Parse(args[0]) : 1;
using VirtualMachine vm = new(kvm, vcpus);
vm.AddMemory(0, memory, 0, memory.Length);
memory.Write(GuestSettings.LoadAddress, new GuestSettings { LongMode = args.Length < 2, PagesPerVcpu = 1024 }.Image());
foreach (Vcpu v in vm.Vcpus) v.SetBootState(GuestSettings.LoadAddress);
vm.Serial.OnLine = Console.WriteLine;
vm.Start();
await Task.WhenAny(vm.Ended, Task.Delay(2000));
if (vm.Ended.IsFaulted) await vm.Ended;
vm.Stop(TimeSpan.FromSeconds(5));
for (int i = 0; i < vcpus; i++) Console.WriteLine(GuestReport.Read(memory, i));
Console.WriteLine($"tsc {vm.Vcpus[0].TscKilohertz} kHz, state {vm.Save()[0].Encode().Length}");
