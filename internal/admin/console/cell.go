// SPDX-License-Identifier: Apache-2.0

package console

import "strings"

// formulaStarts are the characters with which spreadsheets begin a formula, and those that some of them skip before one.
const formulaStarts = "=+-@\t\r"

// guardCell keeps a spreadsheet from reading a cell as a formula: names are chosen by people, and the file is opened by an administrator. An apostrophe
// before it makes it text. Texts that look guarded are guarded too, so that [unguardCell] gives back every text as it was.
func guardCell(text string) string {
	if startsFormula(text) {
		return "'" + text
	}
	return text
}

// unguardCell undoes [guardCell].
func unguardCell(cell string) string {
	if text, ok := strings.CutPrefix(cell, "'"); ok && startsFormula(text) {
		return text
	}
	return cell
}

func startsFormula(text string) bool {
	text = strings.TrimLeft(text, "'")
	return text != "" && strings.IndexByte(formulaStarts, text[0]) >= 0
}
