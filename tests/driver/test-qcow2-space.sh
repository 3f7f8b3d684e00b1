#!/bin/bash
# Writes, zeroes and discards at random, by several threads at once, on qcow2 images of many shapes: what was written
# is there, what was made zero is zero, and no refcount is wrong.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2.sh"
require qemu-img --version

seed=${SEED:-1000}

while read -r size options; do
	make "$options" "$size"
	attack "$options, $size" -s $((seed++)) -n 5 -k 60 -r 2 -m wwwrzzdf
done <<-END
	3M cluster_size=512
	8M cluster_size=4k,compat=0.10
	16M cluster_size=4k,refcount_bits=2
	33M cluster_size=64k
	33M cluster_size=64k,compat=0.10
	33M cluster_size=64k,extended_l2=on
	33M cluster_size=16k,extended_l2=on,refcount_bits=32
	40M cluster_size=2M,extended_l2=on
	5001k cluster_size=32k
END

# The disk grows meanwhile.
for options in cluster_size=512 cluster_size=4k,compat=0.10 cluster_size=16k,extended_l2=on; do
	make "$options" 4M
	attack "growing, $options" -s $((seed++)) -n 4 -k 60 -r 2 -m wwwrrzdfg
done

# Over something: compressed clusters, a backing file, snapshots.
make "" 16M
"$random" -s $((seed++)) -n 2 -k 200 "qcow2:$tmp/a.qcow2" "$tmp/model"
mv "$tmp/model" "$tmp/base.raw"

for options in cluster_size=4k compression_type=zstd extended_l2=on compat=0.10; do
	qemu-img convert -c -f raw -O qcow2 -o "$options" "$tmp/base.raw" "$tmp/a.qcow2"
	model
	attack "compressed, $options" -s $((seed++)) -n 3 -k 60 -r 2 -m wwrzzdf
	for size in 12M 20M; do
		make "$options" $size -b base.raw -F raw
		attack "on a backing file, $options, $size" -s $((seed++)) -n 3 -k 60 -r 2 -m wwrzzdf
	done
	qemu-img snapshot -c one "$tmp/a.qcow2"
	cp "$tmp/model" "$tmp/one"
	attack "after a snapshot, $options" -s $((seed++)) -n 3 -k 60 -r 2 -m wwrzzdf
	qemu-img convert -l snapshot.name=one -f qcow2 -O raw "$tmp/a.qcow2" "$tmp/now"
	cmp "$tmp/one" "$tmp/now" || fail "$options: the snapshot has changed"
	qemu-img snapshot -d one "$tmp/a.qcow2"
	attack "without the snapshot, $options" -s $((seed++)) -n 1 -k 60 -m wwrzzdf
done

# Zeroes are looked for in what is written.
for detect in on unmap; do
	attack_options=,detect-zeroes=$detect
	for options in "" extended_l2=on compat=0.10; do
		make "$options" 20M -b base.raw -F raw
		attack "detect-zeroes=$detect, $options" -s $((seed++)) -n 3 -k 60 -r 2 -m wwrzd
	done
done
