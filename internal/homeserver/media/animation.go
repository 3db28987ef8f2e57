// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/color/palette"
	"image/gif"
	"io"

	"golang.org/x/image/draw"
)

// maxFrames bounds the frames of an animation of which a moving thumbnail is made; of a longer one there is a still.
const maxFrames = 200

// animated makes a moving thumbnail of a GIF. ok is false for what does not move, moves too long, or would take more than the given pixels.
func animated(content io.ReadSeeker, want size, maxPixels int64) (out []byte, ok bool, err error) {
	frames, screenPixels, err := countFrames(content)
	if err != nil {
		return nil, false, errNoImage
	}
	if frames < 2 || frames > maxFrames || int64(frames)*screenPixels > maxPixels {
		return nil, false, nil
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return nil, false, err
	}
	all, err := gif.DecodeAll(content)
	if err != nil {
		return nil, false, errNoImage
	}
	small := gif.GIF{Delay: all.Delay, LoopCount: all.LoopCount}
	screen := image.NewRGBA(image.Rect(0, 0, all.Config.Width, all.Config.Height))
	for i, frame := range all.Image {
		var before *image.RGBA
		if all.Disposal[i] == gif.DisposalPrevious {
			before = image.NewRGBA(screen.Rect)
			draw.Copy(before, image.Point{}, screen, screen.Rect, draw.Src, nil)
		}
		draw.Draw(screen, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		shrunk := shrink(screen, want)
		paletted := image.NewPaletted(shrunk.Bounds(), colours(frame.Palette))
		draw.FloydSteinberg.Draw(paletted, paletted.Rect, shrunk, image.Point{})
		small.Image = append(small.Image, paletted)
		small.Disposal = append(small.Disposal, gif.DisposalBackground) // every frame is whole
		switch all.Disposal[i] {
		case gif.DisposalBackground:
			draw.Draw(screen, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			screen = before
		}
	}
	small.Config = image.Config{Width: small.Image[0].Rect.Dx(), Height: small.Image[0].Rect.Dy()}
	var b bytes.Buffer
	err = gif.EncodeAll(&b, &small)
	return b.Bytes(), err == nil, err
}

// colours are a frame's own, with one that is transparent, or those of the web where it has none.
func colours(own color.Palette) color.Palette {
	if len(own) == 0 {
		own = palette.WebSafe
	}
	for _, c := range own {
		if _, _, _, a := c.RGBA(); a == 0 {
			return own
		}
	}
	return append(own[:min(len(own), 255):min(len(own), 255)], color.Transparent)
}

// countFrames walks a GIF's blocks (GIF89a) without unpacking anything: how much its frames would take is to be known before they are.
func countFrames(content io.ReadSeeker) (frames int, screenPixels int64, err error) {
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return 0, 0, err
	}
	r := bufio.NewReader(content)
	head := make([]byte, 13)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, 0, err
	}
	screenPixels = int64(binary.LittleEndian.Uint16(head[6:])) * int64(binary.LittleEndian.Uint16(head[8:]))
	if err := skipColours(r, head[10]); err != nil {
		return 0, 0, err
	}
	for frames <= maxFrames {
		kind, err := r.ReadByte()
		if err != nil {
			return 0, 0, err
		}
		switch kind {
		case 0x21: // an extension: its label, then data
			_, err = r.Discard(1)
		case 0x2c: // an image: its descriptor, colours, the size of its codes, then data
			frames++
			descriptor := make([]byte, 9)
			if _, err = io.ReadFull(r, descriptor); err == nil {
				err = skipColours(r, descriptor[8])
			}
			if err == nil {
				_, err = r.Discard(1)
			}
		case 0x3b:
			return frames, screenPixels, nil
		default:
			err = errors.New("no block of a GIF")
		}
		if err == nil {
			err = skipData(r)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return frames, screenPixels, nil
}

// skipColours skips the table of colours that a packed field announces.
func skipColours(r *bufio.Reader, packed byte) error {
	if packed&0x80 == 0 {
		return nil
	}
	_, err := r.Discard(3 << (packed&7 + 1))
	return err
}

// skipData skips sub-blocks up to the empty one.
func skipData(r *bufio.Reader) error {
	for {
		n, err := r.ReadByte()
		if err != nil || n == 0 {
			return err
		}
		if _, err := r.Discard(int(n)); err != nil {
			return err
		}
	}
}
