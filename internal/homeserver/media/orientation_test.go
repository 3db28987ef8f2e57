// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bytes"
	"image"
	"image/color"
	"testing"
)

// exif is the head of a JPEG that a camera marked with an orientation.
func exif(orientation byte) []byte {
	tiff := []byte{'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0}
	segment := append([]byte("Exif\x00\x00"), tiff...)
	return append([]byte{0xff, 0xd8, 0xff, 0xe1, 0, byte(len(segment) + 2)}, segment...)
}

func TestOrientation(t *testing.T) {
	t.Parallel()
	for o := byte(1); o <= 8; o++ {
		if got := orientation(exif(o)); got != int(o) {
			t.Errorf("orientation %d read as %d", o, got)
		}
	}
	for _, head := range [][]byte{nil, {0xff}, {0xff, 0xd8}, exif(0), exif(9), exif(6)[:20], []byte("\x89PNG")} {
		if got := orientation(head); got != 1 {
			t.Errorf("%x read as %d", head, got)
		}
	}
}

// The pixel that was top left as the camera saw it is where the orientation says it is stored.
func TestUpright(t *testing.T) {
	t.Parallel()
	mark := color.RGBA{255, 0, 0, 255}
	stored := map[int]image.Point{1: {0, 0}, 2: {2, 0}, 3: {2, 1}, 4: {0, 1}, 5: {0, 0}, 6: {0, 1}, 7: {2, 1}, 8: {2, 0}}
	for o, at := range stored {
		img := image.NewRGBA(image.Rect(0, 0, 3, 2))
		img.SetRGBA(at.X, at.Y, mark)
		out := upright(img, o)
		if out.At(0, 0) != color.Color(mark) {
			t.Errorf("orientation %d: the top left pixel is elsewhere", o)
		}
		if wide := out.Bounds().Dx() == 3; wide != (o < 5) {
			t.Errorf("orientation %d: size %v", o, out.Bounds())
		}
	}
}

func FuzzOrientation(f *testing.F) {
	f.Add(exif(6))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, head []byte) {
		if o := orientation(head); o < 1 || o > 8 {
			t.Errorf("orientation %d", o)
		}
	})
}
