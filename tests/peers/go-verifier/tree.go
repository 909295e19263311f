package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
)

type hash = [32]byte

func leafHash(entry []byte) hash { return sha256.Sum256(append([]byte{0}, entry...)) }

func nodeHash(left, right hash) hash {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// rootOf is the tree hash of RFC 6962 §2.1 over hashes.
func rootOf(hashes []hash) hash {
	switch len(hashes) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return hashes[0]
	}
	split := 1 << (bits.Len(uint(len(hashes)-1)) - 1)
	return nodeHash(rootOf(hashes[:split]), rootOf(hashes[split:]))
}

// inclusionHolds is RFC 9162 §2.1.3.2.
func inclusionHolds(leaf hash, index, size int64, path []hash, root hash) bool {
	if index < 0 || index >= size {
		return false
	}
	fn, sn, r := index, size-1, leaf
	for _, p := range path {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			r = nodeHash(p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = nodeHash(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && r == root
}

// consistencyHolds is RFC 9162 §2.1.4.2, with the sizes 0 and equal of SPEC §10.6.
func consistencyHolds(old int64, oldRoot hash, size int64, root hash, path []hash) bool {
	if old > size {
		return false
	}
	if old == size || old == 0 {
		return len(path) == 0 && (old == 0 && oldRoot == sha256.Sum256(nil) && (size != 0 || root == oldRoot) || old != 0 && oldRoot == root)
	}
	if len(path) == 0 {
		return false
	}
	if old&(old-1) == 0 {
		path = append([]hash{oldRoot}, path...)
	}
	fn, sn := old-1, size-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr, sr := path[0], path[0]
	for _, c := range path[1:] {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = nodeHash(c, fr), nodeHash(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = nodeHash(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && fr == oldRoot && sr == root
}

// hashLines reads hash lines in base64, at most 63.
func hashLines(lines []string) ([]hash, error) {
	if len(lines) > 63 {
		return nil, errors.New("more than 63 hashes")
	}
	found := make([]hash, len(lines))
	for at, line := range lines {
		raw, err := decode64(line)
		if err != nil || len(raw) != 32 {
			return nil, errors.New("not a hash")
		}
		copy(found[at][:], raw)
	}
	return found, nil
}

// parseProof splits an inclusion or a consistency proof (SPEC §10.6) into its number, its hashes and its note.
func parseProof(data []byte) (int64, []hash, []byte, error) {
	bad := errors.New("not a proof")
	head, signed, found := strings.Cut(string(data), "\n\n")
	if !found || !goodText(data) {
		return 0, nil, nil, bad
	}
	lines := strings.Split(head, "\n")
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "old ") {
		return 0, nil, nil, bad
	}
	number, err := parseNumber(lines[0][len("old "):])
	if err != nil {
		return 0, nil, nil, err
	}
	hashes, err := hashLines(lines[1:])
	return number, hashes, []byte(signed), err
}

// --- tiles (SPEC §10.7) ---

type export string

func tilePath(level string, n int64, width int) string {
	groups := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		groups = fmt.Sprintf("x%03d/%s", n%1000, groups)
	}
	path := "tile/" + level + "/" + groups
	if width < 256 {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

// read reads a regular file of at most limit bytes.
func (e export) read(name string, limit int64) ([]byte, error) {
	path := filepath.Join(string(e), name)
	about, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !about.Mode().IsRegular() || about.Size() > limit {
		return nil, fmt.Errorf("%s is no regular file, or too long", name)
	}
	return os.ReadFile(path)
}

// tile reads a tile, or the first hashes of the full one where the partial one is gone.
func (e export) tile(level string, n int64, width int) ([]hash, error) {
	data, err := e.read(tilePath(level, n, width), int64(width)*32)
	if errors.Is(err, os.ErrNotExist) && width < 256 {
		if data, err = e.read(tilePath(level, n, 256), 256*32); err == nil && len(data) == 256*32 {
			data = data[:width*32]
		}
	}
	if err != nil {
		return nil, err
	}
	if len(data) != width*32 {
		return nil, errors.New("a tile of another length")
	}
	found := make([]hash, width)
	for at := range found {
		copy(found[at][:], data[at*32:])
	}
	return found, nil
}

// level reads all hashes of one level of a tree.
func (e export) level(level uint, size int64) ([]hash, error) {
	count := size >> (8 * level)
	var found []hash
	for n := int64(0); n<<8 < count; n++ {
		hashes, err := e.tile(fmt.Sprint(level), n, width(count, n))
		if err != nil {
			return nil, err
		}
		found = append(found, hashes...)
	}
	return found, nil
}

func width(count, n int64) int {
	if left := count - n<<8; left < 256 {
		return int(left)
	}
	return 256
}

// lead does steps 1 and 2 of reading: level 1 and the partial level-0 tile lead to the root, and to what is above.
func (e export) lead(c *checkpoint) ([]hash, error) {
	ones, err := e.level(1, c.size)
	if err != nil {
		return nil, err
	}
	var partial []hash
	if c.size&255 != 0 {
		if partial, err = e.tile("0", c.size>>8, int(c.size&255)); err != nil {
			return nil, err
		}
	}
	if joined(ones, partial) != c.root {
		return nil, errors.New("the tiles do not lead to the root")
	}
	below := ones
	for level := uint(2); c.size>>(8*level) > 0; level++ {
		above, err := e.level(level, c.size)
		if err != nil {
			return nil, err
		}
		for at := range above {
			if rootOf(below[at<<8:at<<8+256]) != above[at] {
				return nil, errors.New("a tile is not what level 1 gives")
			}
		}
		below = above
	}
	return ones, nil
}

// joined is the root over full level-1 hashes and the leaves after them.
func joined(ones, leaves []hash) hash {
	if len(ones) == 0 {
		return rootOf(leaves)
	}
	if len(leaves) == 0 && len(ones) == 1 {
		return ones[0]
	}
	count := len(ones)
	if len(leaves) > 0 {
		count++
	}
	split := 1 << (bits.Len(uint(count-1)) - 1)
	return nodeHash(joined(ones[:split], nil), joined(ones[split:], leaves))
}

// bundle reads the entries under one level-0 tile.
func (e export) bundle(n int64, count int) ([][]byte, error) {
	const limit = 256 * (2 + 65535)
	full := count
	data, err := e.read(tilePath("entries", n, count), limit)
	if errors.Is(err, os.ErrNotExist) && count < 256 {
		full = 256
		data, err = e.read(tilePath("entries", n, full), limit)
	}
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(data) >= 2 {
		length := int(data[0])<<8 | int(data[1])
		if len(data) < 2+length {
			break
		}
		found, data = append(found, data[2:2+length]), data[2+length:]
	}
	if len(data) > 0 || len(found) != full {
		return nil, errors.New("a bundle of another number of entries")
	}
	return found[:count], nil
}

// entries reads every entry; ones are the level-1 hashes to check level 0 by, where they were read.
func (e export) entries(c *checkpoint, ones []hash) ([][]byte, error) {
	var found [][]byte
	for n := int64(0); n<<8 < c.size; n++ {
		count := width(c.size, n)
		bodies, err := e.bundle(n, count)
		if err != nil {
			return found, err
		}
		leaves, err := e.tile("0", n, count)
		if err != nil {
			return found, err
		}
		if count == 256 && ones != nil && rootOf(leaves) != ones[n] {
			return found, errors.New("a level-0 tile is not what level 1 says")
		}
		for at, body := range bodies {
			if leafHash(body) != leaves[at] {
				return found, errors.New("an entry is not that of its leaf")
			}
			found = append(found, body)
		}
	}
	return found, nil
}
