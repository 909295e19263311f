// A peer for facekeep's audit log: unmodified golang.org/x/mod/sumdb/note and tlog behind a pipe.
//
// It reads one JSON request a line and writes one JSON answer a line. An answer has "error" empty where
// the Go packages accepted everything in the request. Nothing here verifies anything itself.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// height of a C2SP tile.
const height = 8

type proof struct {
	Index  int64    `json:"index"` // inclusion: the entry; consistency: the old size
	Hash   []byte   `json:"hash"`  // inclusion: its leaf hash; consistency: the old root
	Hashes [][]byte `json:"hashes"`
}

type request struct {
	Op      string   `json:"op"`
	Keys    []string `json:"keys"`
	Note    []byte   `json:"note"`
	Name    string   `json:"name"`
	Size    int64    `json:"size"`
	Root    []byte   `json:"root"`
	Proofs  []proof  `json:"proofs"`
	Entries [][]byte `json:"entries"`
	Indexes []int64  `json:"indexes"`
	Dir     string   `json:"dir"`
}

type answer struct {
	Error  string   `json:"error"`
	Text   string   `json:"text,omitempty"`
	Signed int      `json:"signed,omitempty"`
	Key    string   `json:"key,omitempty"`
	Note   []byte   `json:"note,omitempty"`
	Roots  [][]byte `json:"roots,omitempty"`
	Failed []int    `json:"failed"` // positions of the proofs that were refused
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var req request
		ans := answer{Failed: []int{}}
		if err = json.Unmarshal(line, &req); err == nil {
			err = serve(&req, &ans)
		}
		if err != nil {
			ans.Error = err.Error()
		}
		text, err := json.Marshal(&ans)
		if err != nil {
			panic(err)
		}
		out.Write(append(text, '\n'))
		out.Flush()
	}
}

func serve(req *request, ans *answer) error {
	switch req.Op {
	case "open":
		return open(req, ans)
	case "sign":
		return sign(req, ans)
	case "roots":
		return roots(req, ans)
	case "inclusion":
		return each(req, ans, func(p proof, root tlog.Hash) error {
			return tlog.CheckRecord(hashes(p.Hashes), req.Size, root, p.Index, hash(p.Hash))
		})
	case "consistency":
		return each(req, ans, func(p proof, root tlog.Hash) error {
			return tlog.CheckTree(hashes(p.Hashes), req.Size, root, p.Index, hash(p.Hash))
		})
	case "tiles":
		return tiles(req)
	}
	return fmt.Errorf("unknown op %q", req.Op)
}

// open opens a note under all keys that Go can load.
func open(req *request, ans *answer) error {
	var known []note.Verifier
	for _, key := range req.Keys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return err
		}
		known = append(known, verifier)
	}
	opened, err := note.Open(req.Note, note.VerifierList(known...))
	if err != nil {
		return err
	}
	ans.Text, ans.Signed = opened.Text, len(opened.Sigs)
	return nil
}

// sign signs req.Note as a text with a new key.
func sign(req *request, ans *answer) error {
	secret, public, err := note.GenerateKey(nil, req.Name)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return err
	}
	ans.Key = public
	ans.Note, err = note.Sign(&note.Note{Text: string(req.Note)}, signer)
	return err
}

// roots returns the root hash of each prefix of the entries, from one entry on.
func roots(req *request, ans *answer) error {
	var stored memory
	for n, entry := range req.Entries {
		var err error
		if stored, err = stored.grow(int64(n), entry); err != nil {
			return err
		}
		root, err := tlog.TreeHash(int64(n)+1, stored)
		if err != nil {
			return err
		}
		ans.Roots = append(ans.Roots, root[:])
	}
	return nil
}

// each checks every proof against the tree (req.Size, req.Root).
func each(req *request, ans *answer, check func(proof, tlog.Hash) error) error {
	if len(req.Root) != tlog.HashSize {
		return errors.New("the root is not a hash")
	}
	for at, p := range req.Proofs {
		if err := check(p, hash(req.Root)); err != nil {
			ans.Failed = append(ans.Failed, at)
		}
	}
	return nil
}

// tiles rebuilds the tree from the exported entries, compares every tile with it, and proves req.Indexes
// out of the exported tiles. (TileHashReader alone does not do: in 0.7.0 it leaves a full tile unauthenticated
// where two of the tree's subtree hashes stand in one tile.)
func tiles(req *request) error {
	tree := tlog.Tree{N: req.Size, Hash: hash(req.Root)}
	dir := directory(req.Dir)
	stored, err := dir.rebuild(req.Size)
	if err != nil {
		return err
	}
	root, err := tlog.TreeHash(req.Size, stored)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return errors.New("the entries do not lead to the root")
	}
	for _, tile := range published(req.Size) {
		expected, err := tlog.ReadTileData(tile, stored)
		if err != nil {
			return err
		}
		found, err := dir.read(tile)
		if err != nil {
			return err
		}
		if !bytes.Equal(found, expected) {
			return fmt.Errorf("%s is not what the tree gives", c2spPath(tile, ""))
		}
	}
	reader := tlog.TileHashReader(tree, dir)
	for _, index := range req.Indexes {
		if err := proveFromTiles(tree, reader, index); err != nil {
			return err
		}
	}
	return nil
}

// published is what C2SP has a tree of that size publish: NewTiles without the narrower partial tiles.
func published(size int64) []tlog.Tile {
	var found []tlog.Tile
	for _, tile := range tlog.NewTiles(height, 0, size) {
		if tile.W == 1<<height || int64(tile.W) == size>>(height*uint(tile.L))&(1<<height-1) {
			found = append(found, tile)
		}
	}
	return found
}

func proveFromTiles(tree tlog.Tree, reader tlog.HashReader, index int64) error {
	leaves, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return err
	}
	path, err := tlog.ProveRecord(tree.N, index, reader)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, leaves[0]); err != nil {
		return err
	}
	older, err := tlog.TreeHash(index+1, reader)
	if err != nil {
		return err
	}
	consistency, err := tlog.ProveTree(tree.N, index+1, reader)
	if err != nil {
		return err
	}
	return tlog.CheckTree(consistency, tree.N, tree.Hash, index+1, older)
}

// directory is a tlog.TileReader over C2SP paths.
type directory string

func (d directory) Height() int { return height }

func (d directory) SaveTiles([]tlog.Tile, [][]byte) {}

func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := d.read(tile)
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

// read reads a tile, out of the full one where a partial one is gone.
func (d directory) read(tile tlog.Tile) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(d), c2spPath(tile, "")))
	if errors.Is(err, os.ErrNotExist) && tile.W < 1<<height {
		full := tile
		full.W = 1 << height
		data, err = os.ReadFile(filepath.Join(string(d), c2spPath(full, "")))
		if err == nil && len(data) == full.W*tlog.HashSize {
			data = data[:tile.W*tlog.HashSize]
		}
	}
	return data, err
}

// rebuild hashes every entry of the bundles into a tree.
func (d directory) rebuild(size int64) (memory, error) {
	var stored memory
	for _, tile := range published(size) {
		if tile.L != 0 {
			continue
		}
		entries, err := d.bundle(tile)
		if err != nil {
			return nil, err
		}
		for at, entry := range entries {
			if stored, err = stored.grow(tile.N<<height+int64(at), entry); err != nil {
				return nil, err
			}
		}
	}
	return stored, nil
}

// bundle reads the entries under a level-0 tile, out of the full bundle where a partial one is gone.
func (d directory) bundle(tile tlog.Tile) ([][]byte, error) {
	count := tile.W
	data, err := os.ReadFile(filepath.Join(string(d), c2spPath(tile, "entries")))
	if errors.Is(err, os.ErrNotExist) && tile.W < 1<<height {
		tile.W = 1 << height
		data, err = os.ReadFile(filepath.Join(string(d), c2spPath(tile, "entries")))
	}
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(data[0])<<8+int(data[1]) {
			return nil, errors.New("a bundle ends inside an entry")
		}
		length := int(data[0])<<8 + int(data[1])
		entries = append(entries, data[2:2+length])
		data = data[2+length:]
	}
	if len(entries) != tile.W {
		return nil, fmt.Errorf("%s holds %d entries", c2spPath(tile, "entries"), len(entries))
	}
	return entries[:count], nil
}

// memory is a tlog.HashReader over all stored hashes of a tree.
type memory []tlog.Hash

func (m memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, 0, len(indexes))
	for _, index := range indexes {
		found = append(found, m[index])
	}
	return found, nil
}

func (m memory) grow(n int64, entry []byte) (memory, error) {
	more, err := tlog.StoredHashes(n, entry, m)
	return append(m, more...), err
}

// c2spPath is C2SP's path of a tile: no height, "entries" instead of "data".
func c2spPath(tile tlog.Tile, level string) string {
	if level == "" {
		level = strconv.Itoa(tile.L)
	}
	groups := fmt.Sprintf("%03d", tile.N%1000)
	for n := tile.N / 1000; n > 0; n /= 1000 {
		groups = fmt.Sprintf("x%03d/%s", n%1000, groups)
	}
	path := strings.Join([]string{"tile", level, groups}, "/")
	if tile.W < 1<<height {
		path += ".p/" + strconv.Itoa(tile.W)
	}
	return path
}

func hash(raw []byte) (h tlog.Hash) {
	if len(raw) != tlog.HashSize {
		panic("not a hash: " + base64.StdEncoding.EncodeToString(raw))
	}
	copy(h[:], raw)
	return h
}

func hashes(raw [][]byte) []tlog.Hash {
	found := make([]tlog.Hash, 0, len(raw))
	for _, item := range raw {
		found = append(found, hash(item))
	}
	return found
}
