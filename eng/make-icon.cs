// Draws the packages' icon: a guest's memory as four by four pages, some of them there, one just arriving.
// Run: dotnet run eng/make-icon.cs -- eng/package/icon.png
using System.Buffers.Binary;
using System.IO.Compression;

const int size = 128, samples = 4, cells = 4, margin = 20, pitch = 23, cell = 19;
(byte, byte, byte) ground = (0x1b, 0x26, 0x3b), missing = (0x3a, 0x4a, 0x66), present = (0x2e, 0xc4, 0xa6), fault = (0xff, 0xb4, 0x3b);
string map = "pppp" + "ppmp" + "mpfm" + "mmpm";

byte[] raw = new byte[size * (1 + size * 4)];
for (int y = 0; y < size; y++)
{
    for (int x = 0; x < size; x++)
    {
        // Averaged over samples x samples points, so that the round corners are smooth.
        double red = 0, green = 0, blue = 0, alpha = 0;
        for (int s = 0; s < samples * samples; s++)
        {
            double px = x + (s % samples + 0.5) / samples, py = y + (s / samples + 0.5) / samples;
            if (!Inside(px, py, 0, 0, size, 24))
            {
                continue;
            }

            (byte r, byte g, byte b) = ColorAt(px, py);
            (red, green, blue, alpha) = (red + r, green + g, blue + b, alpha + 1);
        }

        int at = y * (1 + size * 4) + 1 + x * 4;
        if (alpha > 0)
        {
            (raw[at], raw[at + 1], raw[at + 2]) = ((byte)(red / alpha), (byte)(green / alpha), (byte)(blue / alpha));
        }

        raw[at + 3] = (byte)(255 * alpha / (samples * samples));
    }
}

using FileStream file = File.Create(args[0]);
file.Write([0x89, (byte)'P', (byte)'N', (byte)'G', 0x0d, 0x0a, 0x1a, 0x0a]);
byte[] header = new byte[13];
BinaryPrimitives.WriteInt32BigEndian(header, size);
BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(4), size);
(header[8], header[9]) = (8, 6);
Chunk("IHDR", header);
using MemoryStream packed = new();
using (ZLibStream zlib = new(packed, CompressionLevel.SmallestSize, leaveOpen: true))
{
    zlib.Write(raw);
}

Chunk("IDAT", packed.ToArray());
Chunk("IEND", []);

(byte, byte, byte) ColorAt(double x, double y)
{
    for (int i = 0; i < cells * cells; i++)
    {
        if (Inside(x, y, margin + i % cells * pitch, margin + i / cells * pitch, cell, 4))
        {
            return map[i] switch { 'p' => present, 'f' => fault, _ => missing };
        }
    }

    return ground;
}

static bool Inside(double x, double y, double left, double top, double side, double radius)
{
    double dx = Math.Max(Math.Max(left + radius - x, x - (left + side - radius)), 0);
    double dy = Math.Max(Math.Max(top + radius - y, y - (top + side - radius)), 0);
    return dx * dx + dy * dy <= radius * radius;
}

void Chunk(string type, byte[] data)
{
    byte[] body = [.. System.Text.Encoding.ASCII.GetBytes(type), .. data];
    byte[] number = new byte[4];
    BinaryPrimitives.WriteInt32BigEndian(number, data.Length);
    file.Write(number);
    file.Write(body);
    BinaryPrimitives.WriteUInt32BigEndian(number, Crc(body));
    file.Write(number);
}

static uint Crc(byte[] data)
{
    uint crc = 0xffff_ffff;
    foreach (byte b in data)
    {
        crc ^= b;
        for (int bit = 0; bit < 8; bit++)
        {
            crc = (crc >> 1) ^ (0xedb8_8320 & (0 - (crc & 1)));
        }
    }

    return ~crc;
}
