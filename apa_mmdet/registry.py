"""What MMEngine needs for ``_base_ = 'apa_mmdet::…'``: the package's name, and registries of its scope.

MMEngine reads such a base from the installed package, and gives what stands in it the scope ``apa_mmdet``. The
registries of that scope are empty, one below each of MMDetection's: everything of this package is registered where
configs without a scope find it too.
"""

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

# This module's name: it belongs to no distribution, so that MMEngine asks Python for its folder. Of a distribution it
# asks pip for the folder, which is not that of the package where the installation is an editable one.
MODULE2PACKAGE['apa_mmdet'] = __name__

for name, parent in list(vars(mmdet.registry).items()):
    if isinstance(parent, Registry):
        globals()[name] = Registry(parent.name, parent=parent, scope='apa_mmdet', locations=['apa_mmdet'])
