"""The 200 classes of Icons-200: the names of the freedesktop icon scheme that most themes draw.

Fixed here, so that a label means the same whatever versions of the themes a machine has.
"""

_LISTING = """
accessories-calculator accessories-character-map accessories-dictionary accessories-text-editor
address-book-new application-exit application-x-executable applications-accessories
applications-development applications-games applications-graphics applications-internet
applications-multimedia applications-office applications-other applications-science
applications-system applications-utilities appointment-new audio-card audio-volume-high
audio-volume-low audio-volume-medium audio-volume-muted audio-x-generic avatar-default battery
battery-caution battery-low battery-missing bookmark-new call-start call-stop camera-photo
camera-web computer contact-new dialog-error dialog-information dialog-password dialog-warning
document-new document-open document-open-recent document-page-setup document-print
document-print-preview document-properties document-revert document-save document-save-as
document-send drive-harddisk drive-optical drive-removable-media edit-clear edit-copy edit-cut
edit-delete edit-find edit-find-replace edit-paste edit-redo edit-select-all edit-undo
emblem-favorite emblem-important emblem-readonly emblem-unreadable face-angel face-crying folder
folder-documents folder-new folder-open folder-remote folder-saved-search folder-visiting
font-x-generic format-indent-less format-indent-more format-justify-center format-justify-fill
format-justify-left format-justify-right format-text-bold format-text-italic
format-text-strikethrough format-text-underline go-bottom go-down go-first go-home go-jump
go-last go-next go-previous go-top go-up help-about help-browser help-contents image-loading
image-missing image-x-generic input-keyboard input-mouse insert-image insert-link insert-text
list-add list-remove mail-attachment mail-forward mail-mark-junk mail-message-new mail-reply-all
mail-reply-sender mail-send-receive media-eject media-floppy media-optical media-playback-pause
media-playback-start media-playback-stop media-playlist-repeat media-playlist-shuffle
media-record media-seek-backward media-seek-forward media-skip-backward media-skip-forward
multimedia-player network-error network-idle network-offline network-receive network-server
network-transmit network-transmit-receive network-vpn network-wired network-wireless
network-workgroup object-flip-horizontal object-flip-vertical object-rotate-left
object-rotate-right package-x-generic preferences-desktop preferences-desktop-accessibility
preferences-desktop-locale preferences-desktop-remote-desktop preferences-desktop-screensaver
preferences-desktop-theme preferences-desktop-wallpaper preferences-system-windows printer
printer-error process-stop software-update-available software-update-urgent system-file-manager
system-lock-screen system-log-out system-run system-search system-shutdown
system-software-update system-users tab-new text-html text-x-generic-template text-x-script
user-available user-away user-busy user-desktop user-home user-idle user-invisible user-offline
user-trash user-trash-full utilities-system-monitor utilities-terminal video-display
view-fullscreen view-refresh view-restore view-sort-ascending view-sort-descending
weather-showers weather-storm window-close window-new x-office-document zoom-in zoom-original
zoom-out
"""

ICON_NAMES: tuple[str, ...] = tuple(_LISTING.split())
