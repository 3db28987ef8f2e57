// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bytes"
	"image"
	"io"
	"strings"

	"golang.org/x/net/html"
)

// The longest texts of a preview, in characters.
const (
	maxTitle       = 300
	maxDescription = 500
)

// pageProperties are the OpenGraph properties that a preview repeats. Pictures, films and sounds are not among them: their addresses would make the
// client ask foreign servers.
var pageProperties = map[string]int{"og:title": maxTitle, "og:description": maxDescription, "og:site_name": maxTitle, "og:type": 64, "og:locale": 64, "og:url": maxPreviewURL}

// readPage reads a page's OpenGraph properties, else its title and description, and the address of its picture.
func readPage(r io.Reader) (out preview, image string) {
	out = preview{}
	title, description := "", ""
	z := html.NewTokenizer(r)
	for {
		switch z.Next() {
		case html.ErrorToken:
			if out["og:title"] == nil && title != "" {
				out["og:title"] = legible(title, maxTitle)
			}
			if out["og:description"] == nil && description != "" {
				out["og:description"] = legible(description, maxDescription)
			}
			return out, image
		case html.StartTagToken, html.SelfClosingTagToken:
			name, has := z.TagName()
			switch string(name) {
			case "meta":
				if !has {
					continue
				}
				property, content := metaTag(z)
				most, wanted := pageProperties[property]
				switch {
				case property == "og:image" || property == "og:image:url" || property == "og:image:secure_url":
					if image == "" {
						image = content
					}
				case property == "description":
					description = content
				case wanted && out[property] == nil && legible(content, most) != "":
					out[property] = legible(content, most)
				}
			case "title":
				if title == "" && z.Next() == html.TextToken {
					title = string(bytes.Clone(z.Text()))
					title = html.UnescapeString(title)
				}
			}
		}
	}
}

// metaTag reads the property (or name) and the content of a meta tag.
func metaTag(z *html.Tokenizer) (property, content string) {
	for more := true; more; {
		var key, value []byte
		key, value, more = z.TagAttr()
		switch string(key) {
		case "property", "name":
			if property == "" {
				property = strings.ToLower(strings.TrimSpace(string(value)))
			}
		case "content":
			content = string(value)
		}
	}
	return property, content
}

// dimensions are those of a picture, 0 where they cannot be read.
func dimensions(content []byte) (width, height int) {
	c, _, err := image.DecodeConfig(bytes.NewReader(content))
	if err != nil {
		return 0, 0
	}
	return c.Width, c.Height
}
