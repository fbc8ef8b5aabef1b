# Becomes the first process of a machine of its own: `sh machine.sh FOLDER GROUP`, in the mount and
# network namespace whose network the machine is to have. FOLDER/files is copied over its root.
set -eu
folder=$1 group=$2

mount -t tmpfs lab "$folder/disk"
mkdir "$folder/disk/upper" "$folder/disk/work" "$folder/disk/root"
root=$folder/disk/root
mount -t overlay lab -o "lowerdir=/,upperdir=$folder/disk/upper,workdir=$folder/disk/work" "$root"
cp -R "$folder/files/." "$root/"

# Control groups of its own, so that any number of machines run beside each other.
hierarchies="$folder/groups"
mount -t tmpfs lab "$hierarchies"
mkdir "$hierarchies/systemd" "$hierarchies/unified"
mount -t cgroup2 lab "$hierarchies/unified"
mount -t cgroup -o none,name=systemd lab "$hierarchies/systemd" || rmdir "$hierarchies/systemd"
for hierarchy in "$hierarchies"/*; do
    mkdir "$hierarchy/$group"
    echo $$ > "$hierarchy/$group/cgroup.procs"
done

export root hierarchies
exec unshare --mount --pid --cgroup --uts --ipc --fork --kill-child -- sh -eu -c '
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ -d "$hierarchies/systemd" ]; then
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
pivot_root . mnt
umount -l /mnt
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --unit=basic.target
'
